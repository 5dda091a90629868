"""What device this is: a fingerprint that two unlike devices never share."""

import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache
def fingerprint(device: "torch.device") -> str:
    """A name for a device that tells it from every other kind: for the CPU its model and cores, for a GPU its name."""
    if device.type == "cpu":
        return cpu_fingerprint()
    if device.type == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}/{properties.major}.{properties.minor}/{properties.multi_processor_count}"
    return f"{device.type}/{platform.platform()}"


@cache
def cpu_fingerprint() -> str:
    """The CPU's model name and the number of cores that this process may use."""
    return f"{cpu_name()}/{available_cores()}"


def cpu_name() -> str:
    """The CPU's model name as the operating system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
