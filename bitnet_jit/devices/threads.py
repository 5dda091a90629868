"""How many CPU threads our kernels use, and where they come from."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bitnet_jit.arguments import whole_number
from bitnet_jit.settings import MAX_THREADS, read_settings
from bitnet_jit.system.cores import available_cores


class Threads:
    """The number of threads of a process: set by hand, else by BITNET_JIT_NUM_THREADS, else as torch has it."""

    def __init__(self) -> None:
        self.set(read_settings().num_threads)

    def set(self, number: int | None) -> None:
        """Use `number` threads; None follows torch again."""
        wanted = None if number is None else whole_number("number", number, 1, MAX_THREADS, none=True)
        self._number = None if wanted is None else min(wanted, MAX_USEFUL)

    @contextmanager
    def using(self, number: int) -> Iterator[None]:
        """Use `number` threads in the block, then those of before."""
        before = self._number
        self.set(number)
        try:
            yield
        finally:
            self._number = before

    def get(self) -> int:
        """Return how many threads the next call will ask for."""
        if self._number is not None:
            return self._number
        torch = sys.modules.get("torch")
        number: int = torch.get_num_threads() if torch else available_cores()
        return number if number <= MAX_USEFUL else MAX_USEFUL


# more threads only wait for each other; where the system has no more of them, OpenMP ends the process
MAX_USEFUL = max(64, 4 * available_cores())
THREADS = Threads()


def set_num_threads(number: int | None) -> None:
    """Set the number of CPU threads of this library's kernels.

    Args:
        number: from 1 to 4096, or None to follow `torch.get_num_threads()`, which is the default. No more than 64, or
            four for each core, are used.

    Raises:
        InvalidInput: another value.

    >>> import bitnet_jit
    >>> bitnet_jit.set_num_threads(2)
    >>> bitnet_jit.get_num_threads()
    2
    >>> bitnet_jit.set_num_threads(None)
    """
    THREADS.set(number)


def get_num_threads() -> int:
    """Return the number of CPU threads that the next call of a kernel will ask for."""
    return THREADS.get()
