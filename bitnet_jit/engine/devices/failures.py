"""Which errors are a device's: memory that was short for one call, or a device that can no longer be used."""

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.tensors.infer import is_out_of_memory
from bitnet_jit.errors import BitNetError, CacheFull, DeviceFailed

DRIVER = getattr(torch, "AcceleratorError", DeviceFailed)  # PyTorch 2.6 has none: a RuntimeError with the same words
NO_MEMORY = ("out of memory", "ALLOC_FAILED")  # in the words of drivers and libraries that allocate by themselves

LOST: list[object] = []


def keep_forever(*things: object) -> None:
    """Keep what holds memory of a device that has failed: to free page-locked memory there ends the process."""
    LOST.extend(things)


def is_short_of_memory(error: BaseException, device: torch.device) -> bool:
    """Return whether a call would have needed more memory than its device had; less of it may fit.

    >>> cpu = torch.device("cpu")
    >>> is_short_of_memory(torch.OutOfMemoryError("..."), cpu), is_short_of_memory(CacheFull("no pages"), cpu)
    (True, False)
    """
    if isinstance(error, CacheFull | DeviceFailed):  # pages are counted, not allocated
        return False
    if is_out_of_memory(error):
        return True
    return speaks_of_device(error, device) and any(words in str(error) for words in NO_MEMORY)


def is_device_failure(error: BaseException, device: torch.device) -> bool:
    """Return whether an error says that a device, its driver or a launch there has failed.

    >>> error = RuntimeError("CUDA error: an illegal memory access was encountered")
    >>> is_device_failure(error, torch.device("cuda")), is_device_failure(error, torch.device("cpu"))
    (True, False)
    """
    return speaks_of_device(error, device) and not is_short_of_memory(error, device)


def speaks_of_device(error: BaseException, device: torch.device) -> bool:
    """Return whether an error came from a device or its driver, and not from what was asked of it."""
    if isinstance(error, DRIVER | DeviceFailed):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, BitNetError):
        return False
    return any(words in str(error) for words in kind_of(device).failure_words)
