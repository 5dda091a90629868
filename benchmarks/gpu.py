"""How a GPU is timed: as the tuner does it, by CUDA graphs that are replayed in turns between events on the device."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from bitnet_jit.devices import graphs
from timing import Times
from work import Contender


def second_cache_bytes(device: str) -> int:
    """Size of the GPU's last cache."""
    return torch.cuda.get_device_properties(device).L2_cache_size


def facts(device: str) -> dict[str, Any]:
    """What a report says of the GPU."""
    found = torch.cuda.get_device_properties(device)
    return {"gpu": found.name, "compute_capability": f"{found.major}.{found.minor}", "cuda": torch.version.cuda}


def clock_mhz() -> int | None:
    """Of the multiprocessors at this moment, where the package pynvml is there to ask for it."""
    try:
        return torch.cuda.clock_rate()
    except ModuleNotFoundError:
        return None


def measure(contenders: Sequence[Contender], seconds: float) -> dict[str, Times]:
    """Time all contenders, round robin.

    Args:
        contenders: with unlike names.
        seconds: for each of them, all turns together; at least a replay a turn.

    Returns:
        Times by name: for each replay the mean of its calls.
    """
    for contender in contenders:
        contender.run(0)  # compiles, tunes and allocates what is allocated once
    captured = [graphs.capture(contender.run, contender.copies) for contender in contenders]
    taken = graphs.in_turns(captured, seconds)
    return {contender.name: Times(tuple(times)) for contender, times in zip(contenders, taken, strict=True)}


@cache
def limits(device: str) -> list[Contender]:
    """Reads of memory, and products of int8 tiles that stay in shared memory."""
    import gpu_limits

    return [gpu_limits.reads(device), gpu_limits.products(device)]
