"""Time calls on a GPU: they are captured in CUDA graphs, which are replayed in turns between events on the device.

A graph holds a call for each copy of the weight, so that each finds its weight in memory where copies are many, and
enough calls that neither Python nor the beginning of a replay counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.devices.clock import Measure

TURNS = 5  # in which contenders follow one another
WARM_REPLAYS = 1  # at the beginning of a turn, not counted
MAX_CALLS = 20  # of a graph, but for copies
PYTHON_MICROSECONDS = 200.0  # the time of a single call says nothing of the device where it is less
GRAPH_MICROSECONDS = 1000.0  # of a graph of longer calls
MAX_REPLAYS = 100  # of a turn


@dataclass(frozen=True)
class Captured:
    """A graph, and the number of calls that it holds."""

    graph: Any
    calls: int


def capture(run: Callable[[int], object], copies: int, pool: Any = None, calls: int | None = None) -> Captured:
    """Capture a graph of calls.

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
    """Return how many calls make a graph long enough, by the time of one, which may be mostly Python's."""
    microseconds = timed(lambda: run(0), 2)[1]  # the first call may still load something
    return MAX_CALLS if microseconds < PYTHON_MICROSECONDS else max(1, round(GRAPH_MICROSECONDS / microseconds))


def in_turns(captured: Sequence[Captured], seconds: float) -> list[list[float]]:
    """Return microseconds per call, the mean of each replay of its graph.

    Args:
        captured: the contenders.
        seconds: for each of them, all turns together; at least one replay per turn.
    """
    microseconds: list[list[float]] = [[] for _ in captured]
    for _ in range(TURNS):
        for graph, times in zip(captured, microseconds, strict=True):
            warm = min(replay(graph, WARM_REPLAYS))
            replays = int(seconds / TURNS * 1e6 / (warm * graph.calls))
            times += replay(graph, max(1, min(replays, MAX_REPLAYS)))
    return microseconds


def replay(captured: Captured, replays: int) -> list[float]:
    """Return microseconds per call in each of some replays."""
    return [taken / captured.calls for taken in timed(captured.graph.replay, replays)]


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Return microseconds on the device from the end of each call to the end of the next, by events."""
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


def measure_by_graphs(calls: Sequence[Callable[..., Any]], sets: Sequence[tuple[Any, ...]]) -> Measure:
    """Return what times calls by graphs, each captured when it is first asked for; as `clock.measure_by_clock`."""
    graphs: dict[int, Captured] = {}
    pool = torch.cuda.graph_pool_handle()

    def run(call: Callable[..., Any]) -> Callable[[int], object]:
        return lambda number: call(*sets[number])

    def measure(numbers: Sequence[int], seconds: float) -> list[list[float]]:
        for number in numbers:
            if number not in graphs:
                graphs[number] = capture(run(calls[number]), len(sets), pool)
        return in_turns([graphs[number] for number in numbers], seconds)

    return measure
