"""`StepLimit`: how many tokens a step may have after memory was short, and how a step that failed is undone."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Plan
from bitnet_jit.runner.paged_cache import PagedCache

logger = logging.getLogger(__name__)

MAX_TOKENS = 2**16  # a limit above it is none
MAX_TRIES = 4  # of a step of one token: others on the device may free memory meanwhile
PAUSE_S = 0.01  # before the second, twice as much before each next one
GROW_AFTER = 64  # steps that went well, before twice as many tokens are tried: others may have freed memory


@dataclass
class StepLimit:
    """Halves steps that did not fit into memory, and lets requests take turns where not all fit into one.

    Attributes:
        tokens: of a step at most; None: any number.

    >>> limit = StepLimit()
    >>> limit.lower(9), limit.tokens
    (True, 4)
    >>> [limit.lower(1) for _ in range(4)]
    [True, True, True, False]
    """

    tokens: int | None = None
    _steps: int = 0  # that went well since the limit was set
    _tries: int = 0  # steps of one token that did not fit, one after another
    _turns: dict[Request, int] = field(default_factory=dict)  # request -> the number of its last step
    _turn: int = 0

    def budget(self, tokens: int) -> int:
        """Return how many tokens of prompts to plan."""
        return tokens if self.tokens is None else min(tokens, self.tokens)

    def cut(self, plan: Plan) -> Plan:
        """Return as much of a plan as may be one step; who waited longest for a step comes first."""
        if self.tokens is None or sum(plan.values()) <= self.tokens:
            return plan
        self._turns = {request: self._turns.get(request, 0) for request in plan}
        self._turn += 1
        left, step = self.tokens, {}
        for request in sorted(plan, key=lambda one: self._turns[one]):
            if left:
                step[request] = min(plan[request], left)
                left -= step[request]
                self._turns[request] = self._turn
        return step

    def lower(self, tokens: int) -> bool:
        """Note that a step of so many tokens did not fit; return whether a smaller one, or it again, is to be tried."""
        if tokens < 2:
            self._tries += 1
            time.sleep(PAUSE_S * 2**self._tries / 2)
            return self._tries < MAX_TRIES
        self.tokens, self._steps = tokens // 2, 0
        logger.warning("memory was short for a step of %d tokens; steps have %d from now on", tokens, self.tokens)
        return True

    def note(self) -> None:
        """Note that a step went well."""
        self._tries = 0
        if self.tokens is None:
            return
        self._steps += 1
        if self._steps >= GROW_AFTER:
            self._steps, self.tokens = 0, 2 * self.tokens
        if self.tokens > MAX_TOKENS:
            self.tokens = None


@dataclass(frozen=True)
class Before:
    """Where requests stood before a step.

    Attributes:
        plan: the step.
        lengths: request -> tokens that were computed, and its ids.
    """

    plan: Plan
    lengths: dict[Request, tuple[int, int]]

    @classmethod
    def step(cls, plan: Plan) -> "Before":
        """Note where the requests of a plan stand."""
        return cls(plan, {request: (request.sequence.length, len(request.ids)) for request in plan})

    def undo(self, cache: PagedCache, is_short: bool) -> bool:
        """Put back requests that got no token; return whether some had guesses.

        Those make none any more where memory was short. After any other error no request of the step does: it may come
        from guessing, and the step's pages are to suffice when it is run again.
        """
        guessed = False
        for request, (length, ids) in self.lengths.items():
            guessed |= bool(request.guesses)
            if request.guesses or not is_short:
                request.guesses, request.ngrams = [], None
            if len(request.ids) == ids and request.sequence.length >= length:  # 0 where it has ended meanwhile
                cache.truncate(request.sequence, length)
        return guessed

    def left(self, running: Sequence[Request]) -> Plan:
        """Return what is to be run again: the requests that have not ended, and got no token."""
        plan = {}
        for request, tokens in self.plan.items():
            if request in running and len(request.ids) == self.lengths[request][1]:
                plan[request] = tokens
        return plan
