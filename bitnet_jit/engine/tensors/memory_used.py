"""What of the memory is in use: of a device's by all programs, of the machine's by this process."""

from pathlib import Path

import torch

from bitnet_jit.devices.kind import ADDRESSES
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.system.memory import physical_memory, total_memory

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUP = Path("/sys/fs/cgroup")  # a container's own, of version 2


def memory_used(device: torch.device | None) -> float:
    """Return the share in use, 0 to 1; 0 where the system does not tell.

    Args:
        device: whose memory; None: the CPU's.

    >>> 0 <= memory_used(None) <= 1
    True
    """
    device = torch.device("cpu") if device is None else device
    report = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    if report is not None:
        free, total = report(device)
        return 1 - float(free) / float(total)
    kind = kind_of(device)
    if kind.memory_in_use is not None:
        return min(1.0, kind.memory_in_use(device) / kind.total_memory(device))
    if kind.total_memory(device) == ADDRESSES:  # nobody knows
        return 0.0
    limit = total_memory()
    if limit < physical_memory():
        return min(1.0, container_bytes() / limit)
    return 1 - min(1.0, available_memory() / limit)


def available_memory() -> int:
    """Return the bytes that programs can still ask for without swapping; all of the memory where that is not told."""
    number = number_behind("MemAvailable:", MEMINFO)
    return total_memory() if number is None else 1024 * number


def container_bytes() -> int:
    """Return the bytes that a container uses, without cached files that can be dropped; 0 where that is not told."""
    try:
        current = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return 0
    return max(0, current - (number_behind("inactive_file", CGROUP / "memory.stat") or 0))


def resident_bytes() -> int | None:
    """Return the memory that this process holds; None where the system does not tell."""
    return own_bytes("VmRSS:")


def peak_bytes() -> int | None:
    """Return what this process held at most since the last reset; None where the system does not tell."""
    return own_bytes("VmHWM:")


def own_bytes(name: str) -> int | None:
    """Return the bytes that the system tells of this process under a name."""
    number = number_behind(name, STATUS)
    return None if number is None else 1024 * number


def number_behind(name: str, path: Path) -> int | None:
    """Return the number that stands behind a name in a file of the system; None where there is none."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        return next((int(words[1]) for words in lines if words[:1] == [name]), None)
    except (OSError, ValueError, IndexError):  # another system, or a sandbox that does not let us look
        return None
