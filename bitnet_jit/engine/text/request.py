"""`Request`: a text that an engine writes, from its prompt to its end, as the scheduler and the worker see it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from bitnet_jit.engine.text.generation import Generation, TokenLogprobs
from bitnet_jit.generation.ngram import NGrams
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import StopRule
from bitnet_jit.runner.pages import PagedSequence

if TYPE_CHECKING:
    from bitnet_jit.engine.grammar.grammar import Grammar, Matcher
    from bitnet_jit.models.pooling import Pool

NUMBERS = count()  # of requests, in the order in which they came


def nothing() -> None:
    """Do nothing."""


@dataclass(eq=False)
class Request:
    """A request for text.

    Attributes:
        ids: of the prompt, and of the new tokens behind it.
        prompt_length: tokens of the prompt.
        limit: new tokens that it may get.
        rule: what ends it.
        stop: tokens and strings of which the rule was made, beside the model's end tokens.
        options: how its tokens are chosen, with a seed.
        generation: where its pieces go; an `Embedding` where it has a pool.
        arrived: when it came, in seconds of the monotonic clock.
        deadline: when it must have ended, by the same clock; None: never.
        priority: higher ones go first.
        client: whose it is: clients share what there is.
        number: orders requests that came at one time.
        sequence: its pages, and how many of its ids have been computed.
        row: of the sampler, once it has run.
        cached: tokens of its prompt that the cache of prefixes had.
        first_token: when its first new token came.
        ngrams: where guesses of its next tokens come from; None: none are made.
        guesses: those that the present step verifies.
        prompt_logprobs: number of likeliest tokens whose log-probabilities are given beside each of the prompt's; None:
            none are given.
        prompt_scores: those, of the prompt's second token and on.
        grammar: what the text must be; None: anything.
        matcher: tells which tokens the grammar lets follow; None: any may.
        pool: of its hidden states, where it is for an embedding: it gets no tokens then.
        ignore_eos: whether its rule knows none of the model's end tokens.
        is_cancelled: its caller waits no more; set from any thread.
        ended: called once, when it has ended in whatever way, before its caller is told.
        on_cancel: called by any thread when it was cancelled; of a worker that does not look by itself.
        deaths: processes that ended while it was open, one after another without a token for it.
    """

    ids: list[int]
    prompt_length: int
    limit: int
    rule: StopRule
    options: Sampling
    generation: Generation
    arrived: float
    deadline: float | None = None
    priority: int = 0
    client: str = ""
    number: int = field(default_factory=lambda: next(NUMBERS))
    sequence: PagedSequence = field(default_factory=PagedSequence)
    row: int = -1
    cached: int = 0
    first_token: float | None = None
    ngrams: NGrams | None = None
    guesses: list[int] = field(default_factory=list)
    prompt_logprobs: int | None = None
    prompt_scores: list[TokenLogprobs] = field(default_factory=list)
    grammar: "Grammar | None" = None
    matcher: "Matcher | None" = None
    pool: "Pool | None" = None
    ignore_eos: bool = False
    is_cancelled: bool = False
    ended: Callable[[], None] = nothing
    on_cancel: Callable[[], None] = nothing
    deaths: int = 0
    stop: tuple[int | str, ...] = ()

    @property
    def left(self) -> int:
        """Return how many of its ids are to be computed before its next token is known: 1 in a running text."""
        return len(self.ids) - self.sequence.length

    @property
    def needs_all(self) -> bool:
        """Return whether something is asked of each token of its prompt, so that all of them are computed."""
        return self.prompt_logprobs is not None or self.pool is not None

    @property
    def new_tokens(self) -> int:
        """Return how many tokens it has got."""
        return len(self.ids) - self.prompt_length

    @property
    def work(self) -> int:
        """Return how many of its tokens are still to be computed at most."""
        return self.left + self.limit - self.new_tokens

    @property
    def rank(self) -> tuple[int, int]:
        """Return what requests are ordered by when there is not room for all: the least one goes first."""
        return -self.priority, self.number

    def next_guesses(self, most: int) -> list[int]:
        """Return guesses of its next tokens: so many at most, and fewer than it may get."""
        if self.ngrams is None:
            return []
        self.ngrams.extend(self.ids[len(self.ngrams.tokens) :])
        guesses = self.ngrams.following(max(0, min(most, self.limit - self.new_tokens - 1)))
        return guesses if self.matcher is None else self.matcher.possible(guesses)

    def cancel(self) -> None:
        """Have it end before the next step, wherever it is; called by any thread."""
        self.is_cancelled = True  # steps follow one another while there are requests, so no thread need be woken
        self.on_cancel()

    def begin_anew(self) -> None:
        """Forget where it was computed: all of its ids are to be computed elsewhere. Its new tokens stay."""
        self.sequence, self.row, self.guesses = PagedSequence(), -1, []
        if self.pool is not None:
            self.pool.clear()

    def push(self, token: int) -> str:
        """Take the next token; return why the text ends with it, "" where it goes on."""
        self.ids.append(token)
        if self.rule.ends_with(token) or (self.matcher is not None and self.matcher.take(token)):
            return "stop"
        return "length" if self.new_tokens >= self.limit else ""
