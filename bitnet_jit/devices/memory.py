"""Sizes that no memory can hold are refused in words, before anything is allocated."""

from collections.abc import Iterator
from contextlib import contextmanager

from bitnet_jit.devices.kind import ADDRESSES
from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.memory import in_words, total_memory


def check_fits(what: str, num_bytes: int, device_type: str = "cpu") -> None:
    """Raise InvalidInput where a size is beyond the memory that a machine has.

    Args:
        what: the arguments and what they ask for, which begins the error.
        num_bytes: that are needed at least.
        device_type: torch's word for the device; only the CPU's memory is known, others tell when they allocate.

    >>> check_fits("capacity: a cache of 10 tokens", 2**60)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: capacity: a cache of 10 tokens needs 1.0 EiB, more ...; ask for less
    """
    if num_bytes > (total_memory() if device_type == "cpu" else ADDRESSES):
        size = in_words(num_bytes) if num_bytes < 2**80 else "more bytes than can be counted"
        raise InvalidInput(f"{what} needs {size}, more than there is; ask for less")


@contextmanager
def allocating(what: str, num_bytes: int, device_type: str = "cpu") -> Iterator[None]:
    """Check that a size fits, and turn torch's refusal to allocate within the block into InvalidInput."""
    check_fits(what, num_bytes, device_type)
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError on GPUs, a plain RuntimeError on CPUs
        raise InvalidInput(
            f"{what} needs {in_words(num_bytes)}, which cannot be allocated on {device_type}; ask for less"
        ) from error
