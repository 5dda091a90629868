"""Figures of a load: times to first tokens, per token and between pieces, goodput, rates, errors by kind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.suites.load.client import Outcome

SHARES = (50, 95, 99)
TTFT, TPOT, E2EL = "ttft", "tpot", "e2el"
GOALS = (TTFT, TPOT, E2EL)


@dataclass(frozen=True)
class Spread:
    """The distribution of a figure, in milliseconds; zeros where nothing was seen."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class LoadRow:
    """The figures of one load.

    Attributes:
        request_rate: requests per second, as asked; None: all at once.
        concurrency: requests open at a time at most; None: no limit.
        requests, completed: how many there were, and were answered whole.
        errors: kind of error -> how many.
        seconds: from the first request to the end of the last answer.
        requests_per_s, tokens_per_s, total_tokens_per_s: completed requests, their new tokens, and all their tokens.
        goodput_per_s: completed requests per second that keep all goals; None where no goals were given.
        goals_ms: the goals.
        prompt_tokens, new_tokens, cached_tokens: of completed requests together.
        ttft_ms: time to the first token.
        tpot_ms: time per token behind the first one, a figure per request.
        itl_ms: pauses between pieces, of all requests together.
        e2el_ms: time to the end of the answer.
    """

    request_rate: float | None
    concurrency: int | None
    requests: int
    completed: int
    errors: dict[str, int]
    seconds: float
    requests_per_s: float
    tokens_per_s: float
    total_tokens_per_s: float
    goodput_per_s: float | None
    goals_ms: dict[str, float]
    prompt_tokens: int
    new_tokens: int
    cached_tokens: int
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2el_ms: Spread


def times_of(outcome: Outcome) -> dict[str, float]:
    """Return the milliseconds of a completed request by the names of GOALS; without those that it has none of."""
    if not outcome.pieces_s:
        return {}
    first, last = outcome.pieces_s[0], outcome.pieces_s[-1]
    times = {TTFT: 1e3 * (first - outcome.due_s), E2EL: 1e3 * (last - outcome.due_s)}
    if outcome.new_tokens > 1:
        times[TPOT] = 1e3 * (last - first) / (outcome.new_tokens - 1)
    return times


def pauses_of(outcome: Outcome) -> list[float]:
    """Return the milliseconds between pieces."""
    return [1e3 * (late - early) for early, late in zip(outcome.pieces_s, outcome.pieces_s[1:], strict=False)]


def keeps(outcome: Outcome, goals_ms: Mapping[str, float]) -> bool:
    """Return whether a completed request keeps all goals; a figure that it has none of keeps its goal."""
    times = times_of(outcome)
    return all(times.get(name, 0.0) <= limit for name, limit in goals_ms.items())


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and percentiles of some figures.

    >>> spread([1.0, 2.0, 3.0]).p50
    2.0
    """
    if not values:
        return Spread(0.0, 0.0, 0.0, 0.0)
    return Spread(float(np.mean(values)), *(float(each) for each in np.percentile(values, SHARES)))


def make_row(
    outcomes: Sequence[Outcome],
    seconds: float,
    request_rate: float | None,
    concurrency: int | None,
    goals_ms: Mapping[str, float],
) -> LoadRow:
    """Return the figures of a load."""
    completed = [outcome for outcome in outcomes if outcome.error is None]
    times = [times_of(outcome) for outcome in completed]
    prompt, new = sum(each.prompt_tokens for each in completed), sum(each.new_tokens for each in completed)
    spreads = {name: spread([each[name] for each in times if name in each]) for name in GOALS}
    return LoadRow(
        request_rate=request_rate,
        concurrency=concurrency,
        requests=len(outcomes),
        completed=len(completed),
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
        seconds=seconds,
        requests_per_s=len(completed) / seconds,
        tokens_per_s=new / seconds,
        total_tokens_per_s=(prompt + new) / seconds,
        goodput_per_s=sum(keeps(each, goals_ms) for each in completed) / seconds if goals_ms else None,
        goals_ms=dict(goals_ms),
        prompt_tokens=prompt,
        new_tokens=new,
        cached_tokens=sum(each.cached_tokens for each in completed),
        ttft_ms=spreads[TTFT],
        tpot_ms=spreads[TPOT],
        itl_ms=spread([pause for each in completed for pause in pauses_of(each)]),
        e2el_ms=spreads[E2EL],
    )
