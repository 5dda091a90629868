"""What a worker hands to callers: a token with its log-probabilities, and the end."""

import time
from collections.abc import Sequence

from bitnet_jit.engine.text.counts import Counts
from bitnet_jit.engine.text.generation import End, TokenLogprobs
from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import BitNetError, RequestFailed
from bitnet_jit.generation.logprobs import Logprobs


def take(request: Request, token: int) -> str:
    """Give a request its next token; return why its text ends with it, "" where it goes on.

    Raises:
        RequestFailed: its stop rule or its grammar met an error, which is its own then.
    """
    try:
        return request.push(token)
    except Exception as error:
        raise RequestFailed(repr(error)) from error


def deliver(request: Request, tokens: Sequence[int], logprobs: Logprobs | None, first: int, counts: Counts) -> str:
    """Hand new tokens to who waits for them, up to the last one of the text; return why that ends, "" if it goes on.

    Args:
        request: gets them.
        tokens: its next ones.
        logprobs: of a step, or None.
        first: the row of the first token in them.
        counts: count what was handed over.

    Raises:
        RequestFailed: see `take`.
    """
    reason = ""
    for row, token in enumerate(tokens, first):
        scores = wanted_at(request, logprobs, row)  # may meet the device's errors
        reason = take(request, token)
        counts.new_tokens += 1
        if request.first_token is None:
            request.first_token = time.monotonic()
        request.generation.mailbox.put((token, scores, bool(reason)))
        if reason:
            break
    return reason


def wanted_at(request: Request, logprobs: Logprobs | None, place: int) -> TokenLogprobs | None:
    """Return the log-probabilities of a new token at a row of a step's, where its request asked for some."""
    return None if logprobs is None or request.options.logprobs is None else at_place(logprobs, place)


def at_place(logprobs: Logprobs, place: int) -> TokenLogprobs:
    """Return one row of a step's log-probabilities."""
    ids, values = logprobs.token_ids[place].tolist(), logprobs.values[place].tolist()
    pairs = tuple((token, value) for token, value in zip(ids, values, strict=True) if token >= 0)
    return TokenLogprobs(float(logprobs.chosen[place]), pairs)


def finish(request: Request, reason: str, error: BitNetError | None = None) -> None:
    """Tell who waits that the text has ended."""
    now = time.monotonic()
    first = (request.first_token or now) - request.arrived
    scores = None if request.prompt_logprobs is None else request.prompt_scores
    vector = None if request.pool is None else request.pool.vector
    request.ended()
    request.generation.mailbox.put(End(reason, error, scores, request.cached, first, now - request.arrived, vector))
