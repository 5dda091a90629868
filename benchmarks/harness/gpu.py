"""Timing on a GPU: as the tuner does it, by CUDA graphs that are replayed in turns between events on the device."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from benchmarks.harness.contender import Contender
from benchmarks.harness.timing import Times
from bitnet_jit.devices import graphs


def last_level_cache_bytes(device: str) -> int:
    """Return the size of the GPU's last cache."""
    return torch.cuda.get_device_properties(device).L2_cache_size


def facts(device: str) -> dict[str, Any]:
    """Return a report's facts about the GPU."""
    properties = torch.cuda.get_device_properties(device)
    capability = f"{properties.major}.{properties.minor}"
    return {"gpu": properties.name, "compute_capability": capability, "cuda": torch.version.cuda}


def clock_mhz() -> int | None:
    """Ask for the clock of the multiprocessors at this moment; None where the package pynvml is not installed."""
    try:
        return torch.cuda.clock_rate()
    except ModuleNotFoundError:
        return None


def measure(contenders: Sequence[Contender], seconds: float) -> dict[str, Times]:
    """Time all contenders, round robin.

    Args:
        contenders: with unlike names.
        seconds: per contender, all turns together; at least one replay per turn.

    Returns:
        Times by name: for each replay the mean of its calls.
    """
    for contender in contenders:
        contender.run(0)  # compiles, tunes and allocates what is allocated once
    captured = [graphs.capture(contender.run, contender.copies) for contender in contenders]
    times = graphs.in_turns(captured, seconds)
    return {contender.name: Times(tuple(group)) for contender, group in zip(contenders, times, strict=True)}


@cache
def limits(device: str) -> list[Contender]:
    """Return the limits: reads of memory, and products of int8 tiles that stay in shared memory."""
    from benchmarks.harness import gpu_limits

    return [gpu_limits.reads(device), gpu_limits.products(device)]
