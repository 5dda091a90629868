"""The most memory that building and running a model takes beyond what the process held before."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc_pid_clear_refs(5): sets the peak of resident memory to what is resident now

T = TypeVar("T")


def with_peak(work: Callable[[], T], device: str) -> tuple[T, int | None]:
    """Do some work; return its result, and the peak of bytes that it took: of the device, or of the process on a CPU.

    None stands for a system that does not tell; Linux does. On a CPU the process should have done nothing large before:
    memory that was freed and not given back would be used again, and not be counted.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = work()
        return result, torch.cuda.max_memory_allocated(device) - before
    try:
        give_back()
        CLEAR.write_text(RESET_PEAK)
        before = resident("VmRSS")
    except OSError:
        return work(), None
    result = work()
    return result, resident("VmHWM") - before


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library can; OSError where there is none to ask."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident(field: str) -> int:
    """Return a field of this process's status in bytes."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
