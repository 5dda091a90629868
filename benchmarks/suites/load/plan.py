"""The plan of a load: when each request is due, its prompt, and how many tokens it asks for. A seed sets all of it."""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.suites.load.lengths import Lengths


@dataclass(frozen=True)
class Planned:
    """One request.

    Attributes:
        due_s: seconds from the beginning, when it comes.
        prompt: token ids.
        max_tokens: new tokens that it asks for.
    """

    due_s: float
    prompt: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True)
class Prompts:
    """What requests hold.

    Attributes:
        input_len, output_len: tokens of prompts, those of the common prefix included, and new tokens.
        prefix_len: tokens with which all prompts begin; a shorter prompt is a part of it.
        vocab_size: token ids are drawn below it, those that are banned left out.
        banned: token ids.
    """

    input_len: Lengths
    output_len: Lengths
    prefix_len: int = 0
    vocab_size: int = 256
    banned: tuple[int, ...] = ()


def plan(
    prompts: Prompts, count: int, request_rate: float, burstiness: float, seed: int, load: int = 0
) -> list[Planned]:
    """Draw the requests of a load.

    Args:
        prompts: what they hold.
        count: how many.
        request_rate: requests per second; infinity: all are due at once.
        burstiness: shape of the gamma distribution of the pauses: 1 is a Poisson process, less is burstier.
        seed: of everything; lengths are the same at any rate.
        load: the number of the load, with which prompts change: a server may remember those of the load before.
    """
    due = arrivals(np.random.default_rng([seed, 0]), count, request_rate, burstiness)
    rng = np.random.default_rng([seed, 1])
    inputs, outputs = prompts.input_len.sample(rng, count), prompts.output_len.sample(rng, count)
    texts = np.random.default_rng([seed, 2, load])
    ids = np.setdiff1d(np.arange(prompts.vocab_size), prompts.banned)
    prefix = tuple(map(int, texts.choice(ids, prompts.prefix_len)))
    return [
        Planned(when, (prefix + tuple(map(int, texts.choice(ids, length))))[:length], new)
        for when, length, new in zip(due, inputs, outputs, strict=True)
    ]


def arrivals(rng: np.random.Generator, count: int, request_rate: float, burstiness: float) -> list[float]:
    """Return the seconds at which requests come, the first one at 0.

    >>> arrivals(np.random.default_rng(0), 3, math.inf, 1.0)
    [0.0, 0.0, 0.0]
    """
    if math.isinf(request_rate):
        return [0.0] * count
    pauses = rng.gamma(burstiness, 1 / (request_rate * burstiness), count)
    pauses[:1] = 0
    return [float(when) for when in np.cumsum(pauses)]
