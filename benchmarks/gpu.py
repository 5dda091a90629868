"""How a GPU is timed: calls captured in CUDA graphs, replayed in turn, between events on the device.

A graph holds one call for each copy of the weight, so that what is timed is the device alone, without Python, and every
call finds its weight in memory where there are enough copies.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from report import LIMIT
from timing import TURNS, Times
from work import Contender

FEWEST_CALLS = 20  # of a graph
WARM_REPLAYS = 2


def second_cache_bytes(device: str) -> int:
    """Size of the GPU's last cache."""
    return torch.cuda.get_device_properties(device).L2_cache_size


def facts(device: str) -> dict[str, Any]:
    """What a report says of the GPU."""
    found = torch.cuda.get_device_properties(device)
    return {"gpu": found.name, "compute_capability": f"{found.major}.{found.minor}", "cuda": torch.version.cuda}


def measure(contenders: Sequence[Contender], seconds: float) -> dict[str, Times]:
    """Time all contenders, round robin.

    Args:
        contenders: with unlike names.
        seconds: for each of them, all turns together; at least a replay a turn.

    Returns:
        Times by name: for each replay the mean of its calls.
    """
    graphs = {contender.name: capture(contender) for contender in contenders}
    taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(TURNS):
        for name, (graph, calls) in graphs.items():
            warm = replay(graph, WARM_REPLAYS)
            replays = max(1, int(seconds / TURNS / (min(warm) / 1e6)))
            taken[name] += [microseconds / calls for microseconds in replay(graph, min(replays, 200))]
    return {name: Times(tuple(microseconds)) for name, microseconds in taken.items()}


def capture(contender: Contender) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of calls on all copies of the weight, and how many calls it holds."""
    fewest = 1 if contender.name.startswith(LIMIT) else FEWEST_CALLS
    calls = contender.copies * -(-fewest // contender.copies)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        contender.run(0)  # compiles, tunes and allocates what is allocated once
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            contender.run(number)
    return graph, calls


def replay(graph: torch.cuda.CUDAGraph, replays: int) -> list[float]:
    """Microseconds of each of some replays."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in zip(events, events[1:], strict=False)]


@cache
def limits(device: str) -> list[Contender]:
    """Reads of memory, and products of int8 tiles that stay in shared memory."""
    import gpu_limits

    return [gpu_limits.reads(device), gpu_limits.products(device)]
