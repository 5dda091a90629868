"""The report of an autotuning, to look at and to print."""

from collections import Counter
from dataclasses import dataclass
from statistics import median

from bitnet_jit.problem import Problem
from bitnet_jit.runtime.entries import Tuned

STATES = {
    "tuned": "tuned now",
    "known": "known before",
    "undecided": "undecided, as the machine was busy: tune again when it is idle",
    "left": "left for want of time: tune again to go on",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one problem.

    Attributes:
        problem: what it was about.
        state: one of STATES.
        tuned: the choice, or None.
    """

    problem: Problem
    state: str
    tuned: Tuned | None = None


@dataclass(frozen=True)
class Report:
    """The outcomes of one call of `autotune`.

    Attributes:
        outcomes: one per problem, the most valuable first.
        seconds: of the call.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def speedups(self) -> tuple[float, ...]:
        """Return how many times as fast as with the default config each problem runs; 1 where that is the choice."""
        return tuple(one.tuned.default_microseconds / one.tuned.microseconds for one in self.outcomes if one.tuned)

    def __str__(self) -> str:
        counts = Counter(outcome.state for outcome in self.outcomes)
        parts = [f"{counts[state]} {words}" for state, words in STATES.items() if counts[state]]
        text = f"{len(self.outcomes)} problems in {self.seconds:.1f} s: {'; '.join(parts)}"
        if not self.speedups:
            return text
        faster = [speedup for speedup in self.speedups if speedup > 1]
        gain = f", in the median {median(faster):.2f} times, at most {max(faster):.2f}" if faster else ""
        return f"{text}\n{len(faster)} of {len(self.speedups)} run faster than with the default config{gain}"
