"""What a worker hands to callers: a token with its log-probabilities, and the end."""

import time

from bitnet_jit.engine.text.generation import End, TokenLogprobs
from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import BitNetError
from bitnet_jit.generation.logprobs import Logprobs


def deliver(request: Request, token: int, logprobs: TokenLogprobs | None, last: bool) -> None:
    """Hand a new token to who waits for it."""
    if request.first_token is None:
        request.first_token = time.monotonic()
    request.generation.mailbox.put((token, logprobs, last))


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
