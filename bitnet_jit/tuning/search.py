"""Which of several ways to do the same is the fastest, found out on a machine that has other things to do.

All are timed a little, those far behind are dropped, the rest are timed again, and the best two with the usual one
twice more, apart from each other. Contenders take turns within a measurement, so that what slows the machine down slows
all of them; times of unlike measurements are compared only to see whether the machine was the same. While it was not,
or the two name winners that are clearly apart, they are measured again; if that does not end, nothing is found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Measure = Callable[[Sequence[int], float], Sequence[Sequence[float]]]

USUAL = 0  # the contender that runs where nothing is known
FAR_BEHIND = 1.5  # times the best: dropped at once
STEADY = 1.10  # times of one contender in two measurements may differ so much
CLEAR = 1.05  # winners that are nearer to each other are as good as one another
ATTEMPTS = 4  # to find two measurements in a row that agree
GAIN = 1.02  # what a choice must gain over the usual one


@dataclass(frozen=True)
class Effort:
    """How long to look.

    Attributes:
        first: seconds a contender, of those that all get.
        second: seconds for those that are left.
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
class Found:
    """What a search found.

    Attributes:
        best: the contender's number.
        microseconds: what it took, the median of the last measurement.
        usual_microseconds: what the usual one took in the same measurement.
        runner_up: the next best one of those timed to the end, the usual one among them; None: there was none.
        runner_up_microseconds: what that one took.
    """

    best: int
    microseconds: float
    usual_microseconds: float
    runner_up: int | None = None
    runner_up_microseconds: float | None = None


def search(contenders: int, measure: Measure, effort: Effort) -> Found | None:
    """The fastest of some contenders, or None where the machine was too busy to tell.

    Args:
        contenders: how many; number 0 is the usual one, and is chosen unless another gains something.
        measure: (numbers, seconds each) -> for each of them microseconds of single calls, taken in turns.
        effort: how long to look.

    >>> search(3, lambda numbers, seconds: [[[5.0, 3.0, 9.0][n]] for n in numbers], EFFORTS["quick"])
    Found(best=1, microseconds=3.0, usual_microseconds=5.0, runner_up=0, runner_up_microseconds=5.0)
    """
    everyone = tuple(range(contenders))
    found = medians(everyone, measure, effort.first)
    near = [number for number in ranked(found) if found[number] <= FAR_BEHIND * min(found.values())]
    found = medians(with_usual(near[: effort.left]), measure, effort.second)
    last = with_usual(ranked(found)[:2])
    before = medians(last, measure, effort.last)
    for _ in range(ATTEMPTS):
        after = medians(last, measure, effort.last)
        if same_machine(before, after) and same_winner(before, after):
            break
        before = after
    else:
        return None
    winner = ranked(after)[0]
    best = winner if after[USUAL] >= GAIN * after[winner] else USUAL
    others = [number for number in ranked(after) if number != best]
    next_best = (others[0], after[others[0]]) if others else (None, None)
    return Found(best, after[best], after[USUAL], *next_best)


def same_machine(before: dict[int, float], after: dict[int, float]) -> bool:
    """Whether every contender took about as long in both measurements."""
    return all(apart(before[number], after[number]) <= STEADY for number in before)


def same_winner(before: dict[int, float], after: dict[int, float]) -> bool:
    """Whether both measurements name the same winner, or two that are as good as one another in both."""
    first, second = ranked(before)[0], ranked(after)[0]
    return first == second or max(before[second] / before[first], after[first] / after[second]) <= CLEAR


def medians(numbers: Sequence[int], measure: Measure, seconds: float) -> dict[int, float]:
    """Microseconds by contender."""
    return {number: median(times) for number, times in zip(numbers, measure(numbers, seconds), strict=True)}


def ranked(found: dict[int, float]) -> list[int]:
    """Contenders, the fastest first."""
    return sorted(found, key=lambda number: found[number])


def with_usual(numbers: Sequence[int]) -> tuple[int, ...]:
    """The same contenders and the usual one."""
    return (USUAL, *(number for number in numbers if number != USUAL))


def apart(one: float, other: float) -> float:
    """How many times as long the longer one is."""
    return max(one, other) / min(one, other)
