"""`Scheduler`: which tokens of which requests are the next step. It knows pages and requests, no model and no clock.

Texts that are being written come first, each with its last token; then prompts, in chunks, as far as a budget goes;
then requests that wait. Who waits is let in by priority; within one, the client that was served least goes first
(a counter of tokens per client, arXiv 2401.00588), and of one client the request that came first.

Where pages do not suffice, the cache of prefixes gives up some; then the request of the lowest rank gives up all of
its own, waits, and is computed anew later. The one of the highest rank always goes on, so all end.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bitnet_jit.engine.text.prefix_cache import PrefixCache
from bitnet_jit.engine.text.request import Request
from bitnet_jit.problem import pages_for
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.runner.pages import PagedSequence, shared_tail

MAX_CLIENTS = 10_000  # that are remembered without a request
YOUNG = 8  # new tokens, up to which a text has just begun
Plan = dict[Request, int]  # how many ids of each are computed


@dataclass
class Scheduler:
    """The requests of one runner.

    Args:
        cache: the runner's pages.
        prefixes: pages of earlier texts; None: none are kept.
        max_running: requests that may have pages at a time.

    Attributes:
        waiting: requests without pages, in the order in which they came.
        running: those with pages, by rank.
        preemptions: how often a request has lost its pages.
    """

    cache: PagedCache
    prefixes: PrefixCache | None
    max_running: int
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    preemptions: int = 0
    _served: Counter[str] = field(default_factory=Counter)
    _reserved: int = 0  # free pages that the plan in the making takes

    @property
    def num_writing(self) -> int:
        """Return how many texts wait for their next token alone."""
        return sum(request.left == 1 for request in self.running)

    @property
    def num_young(self) -> int:
        """Return how many of them have just begun."""
        return sum(request.left == 1 and request.new_tokens < YOUNG for request in self.running)

    @property
    def num_reading(self) -> int:
        """Return how many prompts are being read, or may begin: no more than may run."""
        return min(self.max_running, len(self.running) + len(self.waiting)) - self.num_writing

    def add(self, request: Request) -> None:
        """Take in a request; a client that had none begins level with the one that was served least."""
        clients = {other.client for other in (*self.waiting, *self.running)}
        if len(self._served) > MAX_CLIENTS:  # their names come from outside, without end
            self._served = Counter({client: self._served[client] for client in clients})
        if request.client not in clients:
            least = min((self._served[client] for client in clients), default=0)
            self._served[request.client] = max(self._served[request.client], least)
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request, and free its pages; those of its beginning may stay for others."""
        if request in self.running:
            self.running.remove(request)
            if self.prefixes is not None:
                self.prefixes.keep(request.ids, request.sequence)
        else:
            self.waiting.remove(request)
        self.cache.free(request.sequence)

    def note_computed(self, request: Request) -> None:
        """Let requests that begin alike share what has been computed of one, from now on."""
        if self.prefixes is not None:
            self.prefixes.keep(request.ids, request.sequence)

    def plan(self, budget: int) -> Plan:
        """Return the next step, in which prompts have so many tokens at most; there is room for all of it."""
        plan: Plan = {}
        self._reserved = 0
        for request in [*self.running]:
            if request.left == 1:
                self._put(plan, request, 1)
        for request in [*self.running]:
            if request in self.running and request.left > 1 and budget > 0:
                budget -= self._put(plan, request, min(request.left, budget))
        while budget > 0 and (admitted := self._admit()) is not None:
            budget -= self._put(plan, admitted, min(admitted.left, budget))
        for request, tokens in plan.items():
            self._served[request.client] += tokens
        return plan

    def goes_on(self, requests: Sequence[Request]) -> bool:
        """Return whether a next step is sure to have these requests alone, and has pages; if so, it counts as planned.

        Args:
            requests: those whose tokens are all computed but the one that is being chosen.
        """
        if self.waiting or len(requests) != len(self.running):
            return False
        if sum(pages_needed(self.cache, request, 1) for request in requests) > self.cache.pool.num_free:
            return False
        for request in requests:
            self._served[request.client] += 1
        return True

    def _put(self, plan: Plan, request: Request, tokens: int) -> int:
        """Put tokens of a request into a plan, if there is room or somebody of a lower rank makes some; return them."""
        if request not in self.running:  # it has just made room
            return 0
        needed = pages_needed(self.cache, request, tokens)
        while self._reserved + needed > self.cache.pool.num_free:
            if self.prefixes is not None and self.prefixes.evict():
                continue
            victim = self.running[-1]
            if victim is request:
                return 0
            self._reserved -= pages_needed(self.cache, victim, plan.pop(victim, 0))
            self._preempt(victim)
        self._reserved += needed
        plan[request] = tokens
        return tokens

    def _make_room(self, needed: int) -> bool:
        """Evict kept pages until so many are free; none where that could not suffice. Return whether it did."""
        kept = 0 if self.prefixes is None else len(self.prefixes)
        if self._reserved + needed > self.cache.pool.num_free + kept:
            return False
        while self._reserved + needed > self.cache.pool.num_free:
            if self.prefixes is None or not self.prefixes.evict():
                return False
        return True

    def _preempt(self, request: Request) -> None:
        """Take a request's pages away; it waits, and is computed anew."""
        self.running.remove(request)
        self.cache.free(request.sequence)
        self.waiting.append(request)
        self.waiting.sort(key=lambda other: other.number)
        self.preemptions += 1

    def _admit(self) -> Request | None:
        """Let the next request that waits begin, where there is room for all of its ids; return it."""
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        request = min(self.waiting, key=lambda other: (-other.priority, self._served[other.client], other.number))
        sequence = PagedSequence()
        if self.prefixes is not None and not request.needs_all:
            sequence = self.prefixes.match(request.ids)
        needed = pages_for(len(request.ids)) - len(sequence.pages) + len(self.running)  # each may need a page soon
        if self.running and not self._make_room(needed):
            self.cache.free(sequence)
            return None
        self.waiting.remove(request)
        if not request.new_tokens:
            request.cached = sequence.length
        if self.prefixes is not None:
            self.prefixes.asked += len(request.ids)
            self.prefixes.hits += sequence.length
        request.sequence = sequence
        self.running.append(request)
        self.running.sort(key=lambda other: other.rank)
        return request


def pages_needed(cache: PagedCache, request: Request, tokens: int) -> int:
    """Return the free pages that so many more tokens of a request take."""
    sequence = request.sequence
    more = pages_for(sequence.length + tokens) - len(sequence.pages)
    return max(0, more) + len(shared_tail(cache.pool, sequence))
