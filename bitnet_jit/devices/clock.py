"""Time calls by the clock: on a CPU they wait for one another by themselves."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

Measure = Callable[[Sequence[int], float], Sequence[Sequence[float]]]
TURNS = 5  # in which contenders follow one another
WARM_CALLS = 1  # at the beginning of a turn, not counted: caches and clocks are those of the contender before


def in_turns(
    runs: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], int] = time.perf_counter_ns
) -> list[list[float]]:
    """Return microseconds of single calls of each run.

    Args:
        runs: do the work once.
        seconds: for each of them, all turns together; at least one call per turn is counted.
        clock: nanoseconds.

    >>> [len(times) >= 5 for times in in_turns([lambda: None, lambda: sum(range(9))], seconds=0.0)]
    [True, True]
    """
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(TURNS):
        for run, times in zip(runs, taken, strict=True):
            for _ in range(WARM_CALLS):
                run()
            begin = clock()
            while True:
                start = clock()
                run()
                end = clock()
                times.append((end - start) / 1e3)
                if end - begin >= seconds / TURNS * 1e9:
                    break
    return taken


def measure_by_clock(calls: Sequence[Callable[..., Any]], sets: Sequence[tuple[Any, ...]]) -> Measure:
    """Return what times calls: (their numbers, seconds for each) -> microseconds of single calls of each, in turns.

    Args:
        calls: what competes.
        sets: arguments, which the calls take in turn.
    """
    turn = 0

    def once(call: Callable[..., Any]) -> None:
        nonlocal turn
        turn = (turn + 1) % len(sets)
        call(*sets[turn])

    def measure(numbers: Sequence[int], seconds: float) -> list[list[float]]:
        return in_turns([partial(once, calls[number]) for number in numbers], seconds)

    return measure


def min_seconds(run: Callable[[], object], attempts: int = 5) -> float:
    """Return the shortest time of some calls after a first one, which compiles."""
    run()
    seconds = []
    for _ in range(attempts):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
