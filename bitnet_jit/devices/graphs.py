"""Times of calls on a GPU: captured in CUDA graphs, which are replayed in turns between events on the device.

A graph holds a call for each copy of the weight, so that each finds its weight in memory where copies are many, and
enough calls that neither Python nor the beginning of a replay counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

TURNS = 5  # in which contenders follow one another
WARM_REPLAYS = 1  # at the beginning of a turn, not counted
MAX_CALLS = 20  # of a graph, but for copies
PYTHON_MICROSECONDS = 200.0  # the time of a single call says nothing of the device where it is less
GRAPH_MICROSECONDS = 1000.0  # of a graph of longer calls
MAX_REPLAYS = 100  # of a turn


@dataclass(frozen=True)
class Captured:
    """A graph and how many calls it holds."""

    graph: Any
    calls: int


def capture(run: Callable[[int], object], copies: int, pool: Any = None, calls: int | None = None) -> Captured:
    """A graph of calls.

    Args:
        run: launches one call on the copy of that number; it has run before, so that nothing is compiled any more.
        copies: how many there are; each is used equally often.
        pool: of `torch.cuda.graph_pool_handle`: graphs that never run side by side may share their memory.
        calls: that it holds; by default as many as make it long enough.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        calls = calls or copies * -(-min_calls(run) // copies)
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            for number in range(calls):
                run(number % copies)
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(side)
    return Captured(graph, calls)


def min_calls(run: Callable[[int], object]) -> int:
    """How many calls make a graph long enough, by the time of one, which may be mostly Python's."""
    microseconds = timed(lambda: run(0), 2)[1]  # the first call may still load something
    return MAX_CALLS if microseconds < PYTHON_MICROSECONDS else max(1, round(GRAPH_MICROSECONDS / microseconds))


def in_turns(captured: Sequence[Captured], seconds: float) -> list[list[float]]:
    """Microseconds of a call, the mean of each replay of its graph.

    Args:
        captured: the contenders.
        seconds: for each of them, all turns together; at least a replay a turn.
    """
    taken: list[list[float]] = [[] for _ in captured]
    for _ in range(TURNS):
        for found, times in zip(captured, taken, strict=True):
            warm = min(replay(found, WARM_REPLAYS))
            replays = int(seconds / TURNS * 1e6 / (warm * found.calls))
            times += replay(found, max(1, min(replays, MAX_REPLAYS)))
    return taken


def replay(captured: Captured, replays: int) -> list[float]:
    """Microseconds of a call in each of some replays."""
    return [taken / captured.calls for taken in timed(captured.graph.replay, replays)]


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Microseconds on the device from the end of each call to the end of the next, by events on the current stream."""
    events: list[Any] = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(times + 1)
    ]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    events[-1].synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in zip(events, events[1:], strict=False)]
