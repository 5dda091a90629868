"""Texts of the small decoder that nobody shares a step with: what an engine must write, whatever befalls it."""

from dataclasses import replace
from functools import cache

import bitnet_jit

SCRIPTURE = b"And it came to pass in those days, that there went out a decree from the king, and all the people " * 3


@cache
def decoder():
    return bitnet_jit.load()


def prompt_of(start, length):
    return list(SCRIPTURE[start : start + length])


@cache
def alone(start, length, limit, sampling):
    """Return the tokens of a text by itself."""
    plain = replace(sampling, logprobs=None)
    return decoder().generate(prompt_of(start, length), limit, sampling=plain).tolist()[length:]


def ask(engine, request):
    """Submit (start, length, limit, sampling, speculate) to the model "tiny"."""
    start, length, limit, sampling, speculate = request
    return engine.submit("tiny", prompt_of(start, length), limit, sampling, speculate=speculate)
