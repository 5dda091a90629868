"""The most memory that this process can hold: a request for more is refused before it is allocated."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def total_memory() -> int:
    """Return the bytes of the machine's memory, or of a limit on this process (cgroup, RLIMIT_AS) that is lower.

    >>> total_memory() > 2**20
    True
    """
    return min(physical_memory(), address_space(), *(cgroup_limit(Path(file)) for file in CGROUP_LIMITS))


@cache
def physical_memory() -> int:
    """Return the bytes of the machine's memory; sys.maxsize where the system does not report them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def address_space() -> int:
    """Return the bytes that RLIMIT_AS leaves to this process; sys.maxsize where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


@cache
def cgroup_limit(file: Path) -> int:
    """Return the limit that a file of Linux's control groups holds; sys.maxsize where it holds none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return sys.maxsize


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc).

    A small block that lives on keeps all freed memory before it: behind a load, that is as much as the weights take.
    """
    trim = getattr(this_process(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def this_process() -> ctypes.CDLL | None:
    """Return the C functions of this process; None on Windows."""
    return None if os.name == "nt" else ctypes.CDLL(None)


def in_words(num_bytes: int) -> str:
    """Return a size in the unit that suits it.

    >>> in_words(3 * 2**30), in_words(10)
    ('3.0 GiB', '10 bytes')
    """
    place = min(max(0, (num_bytes.bit_length() - 1) // 10), len(UNITS) - 1)
    return f"{num_bytes} bytes" if place == 0 else f"{num_bytes / 2 ** (10 * place):.1f} {UNITS[place]}"
