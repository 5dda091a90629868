"""Interleaved timing: contenders take turns, so that a machine that slows down slows all of them.

A turn lets the threads of the contender before fall asleep, runs a few calls unmeasured, and times each one after them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.contender import Contender

TURNS = 7
SETTLE_SECONDS = 0.004  # an OpenMP pool keeps spinning for a while after its last region
WARM_CALLS = 2


@dataclass(frozen=True)
class Times:
    """Times of a contender's calls."""

    microseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.microseconds))

    @property
    def min(self) -> float:
        return min(self.microseconds)


def measure(
    contenders: Sequence[Contender],
    seconds: float,
    threads: int,
    synchronize: Callable[[], object] = lambda: None,
    tell: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Time all contenders, round robin.

    Args:
        contenders: with unlike names.
        seconds: per contender, all turns together; a slow one takes longer, at least one call per turn.
        threads: CPU threads that each may use.
        synchronize: waits until the device has done what a run asked for.
        tell: called after every turn.

    Returns:
        Times by name.
    """
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    next_copy = dict.fromkeys(times, 0)
    for _ in range(TURNS):
        for contender in contenders:
            time.sleep(SETTLE_SECONDS)
            contender.set_threads(threads)
            copy = next_copy[contender.name]
            warm = take_turn(contender, copy, WARM_CALLS, synchronize)
            calls = int(min(max(seconds / TURNS / (min(warm) / 1e6), 1), contender.max_calls))
            times[contender.name] += take_turn(contender, copy + WARM_CALLS, calls, synchronize)
            next_copy[contender.name] = copy + WARM_CALLS + calls
            tell()
    return {name: Times(tuple(microseconds)) for name, microseconds in times.items()}


def take_turn(contender: Contender, copy: int, calls: int, synchronize: Callable[[], object]) -> list[float]:
    """Run `calls` times, on one weight copy after another from `copy` on; return the microseconds of each call."""
    run, clock, stamps = contender.run, time.perf_counter_ns, []
    for number in range(copy, copy + calls):
        start = clock()
        run(number)
        synchronize()
        stamps.append((clock() - start) / 1000)
    return stamps
