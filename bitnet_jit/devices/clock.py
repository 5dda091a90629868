"""Times of calls on the CPU, which wait for one another by themselves."""

import time
from collections.abc import Callable, Sequence

TURNS = 5  # in which contenders follow one another
WARM_CALLS = 1  # at the beginning of a turn, not counted: caches and clocks are those of the contender before


def in_turns(
    runs: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], int] = time.perf_counter_ns
) -> list[list[float]]:
    """Microseconds of single calls of each run.

    Args:
        runs: do the work once.
        seconds: for each of them, all turns together; at least a call a turn is counted.
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
