"""Find the fastest of several ways to do the same, on a machine that has other things to do.

All are timed a little, the ones far behind are dropped, the rest are timed again, and the best two with the default
twice more, apart from each other. Contenders take turns within a measurement, so that what slows the machine down slows
all of them; times of unlike measurements are compared only to see whether the machine was the same. While it was not,
or the two name winners that are clearly apart, they are measured again; if that does not end, there is no result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bitnet_jit.devices.clock import Measure

DEFAULT = 0  # the contender that runs where nothing was tuned
FAR_BEHIND = 1.5  # times the best: dropped at once
STEADY = 1.10  # times of one contender in two measurements may differ so much
CLEAR = 1.05  # winners that are nearer to each other are as good as one another
ATTEMPTS = 4  # to find two measurements in a row that agree
GAIN = 1.02  # what a choice must gain over the default


@dataclass(frozen=True)
class Effort:
    """How long to look.

    Attributes:
        first: seconds per contender, which all get.
        second: seconds for the ones that are left.
        last: seconds for the last ones, each of two times.
        left: how many are left after the first measurement.
        wide: whether kernels compete with all of their configs, not with likely ones alone.
    """

    first: float
    second: float
    last: float
    left: int
    wide: bool


EFFORTS = {"quick": Effort(0.001, 0.003, 0.006, 3, wide=False), "full": Effort(0.003, 0.02, 0.06, 8, wide=True)}


@dataclass(frozen=True)
class Fastest:
    """The result of a search.

    Attributes:
        best: the contender's number.
        microseconds: per call, the median of the last measurement.
        default_microseconds: those of the default in the same measurement.
        runner_up: the next best one of those timed to the end, the default among them; None: there was none.
        runner_up_microseconds: per call.
    """

    best: int
    microseconds: float
    default_microseconds: float
    runner_up: int | None = None
    runner_up_microseconds: float | None = None


def search(contenders: int, measure: Measure, effort: Effort) -> Fastest | None:
    """Return the fastest of some contenders, or None where the machine was too busy to tell.

    Args:
        contenders: how many; number 0 is the default, and is chosen unless another gains something.
        measure: (numbers, seconds each) -> for each of them microseconds of single calls, taken in turns.
        effort: how long to look.

    >>> search(3, lambda numbers, seconds: [[[5.0, 3.0, 9.0][n]] for n in numbers], EFFORTS["quick"])
    Fastest(best=1, microseconds=3.0, default_microseconds=5.0, runner_up=0, runner_up_microseconds=5.0)
    """
    everyone = tuple(range(contenders))
    times = medians(everyone, measure, effort.first)
    near = [number for number in ranked(times) if times[number] <= FAR_BEHIND * min(times.values())]
    times = medians(with_default(near[: effort.left]), measure, effort.second)
    last = with_default(ranked(times)[:2])
    before = medians(last, measure, effort.last)
    for _ in range(ATTEMPTS):
        after = medians(last, measure, effort.last)
        if same_machine(before, after) and same_winner(before, after):
            break
        before = after
    else:
        return None
    winner = ranked(after)[0]
    best = winner if after[DEFAULT] >= GAIN * after[winner] else DEFAULT
    others = [number for number in ranked(after) if number != best]
    next_best = (others[0], after[others[0]]) if others else (None, None)
    return Fastest(best, after[best], after[DEFAULT], *next_best)


def same_machine(before: dict[int, float], after: dict[int, float]) -> bool:
    """Return whether every contender took about as long in both measurements."""
    return all(apart(before[number], after[number]) <= STEADY for number in before)


def same_winner(before: dict[int, float], after: dict[int, float]) -> bool:
    """Return whether both measurements name the same winner, or two that are as good as one another in both."""
    first, second = ranked(before)[0], ranked(after)[0]
    return first == second or max(before[second] / before[first], after[first] / after[second]) <= CLEAR


def medians(numbers: Sequence[int], measure: Measure, seconds: float) -> dict[int, float]:
    """Return the median microseconds of each contender."""
    return {number: median(times) for number, times in zip(numbers, measure(numbers, seconds), strict=True)}


def ranked(times: dict[int, float]) -> list[int]:
    """Return the contenders, the fastest first."""
    return sorted(times, key=lambda number: times[number])


def with_default(numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the same contenders and the default."""
    return (DEFAULT, *(number for number in numbers if number != DEFAULT))


def apart(one: float, other: float) -> float:
    """Return how many times as long the longer one is."""
    return max(one, other) / min(one, other)
