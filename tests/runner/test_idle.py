"""The runner that a call leaves for the next one: reused, given back by a stream that is closed, never shared."""

import copy
import pickle

import torch

from bitnet_jit.ops import calls
from bitnet_jit.runner.idle import IdleRunner

PROMPT = list(b"And it came to pass ")


def idle(decoder):
    """Return the runner that waits, without taking it."""
    return decoder.idle_runner._runner


def test_a_second_call_takes_the_runner_of_the_first(tiny):
    decoder = copy.deepcopy(tiny)
    expected = decoder.generate(PROMPT, max_new_tokens=8)
    runner = idle(decoder)
    assert runner is not None
    assert runner.cache.pool.num_free == runner.cache.pool.count
    assert torch.equal(decoder.generate(PROMPT, max_new_tokens=8), expected)
    assert idle(decoder) is runner


def test_a_longer_text_gets_a_larger_one(tiny):
    decoder = copy.deepcopy(tiny)
    decoder.generate(PROMPT, max_new_tokens=2)
    pages = idle(decoder).cache.pool.count
    decoder.generate([PROMPT] * 5, max_new_tokens=100)
    assert idle(decoder).cache.pool.count > pages


def test_a_closed_stream_gives_its_runner_back_with_all_pages_free(tiny):
    decoder = copy.deepcopy(tiny)
    tokens = decoder.stream(PROMPT, max_new_tokens=20)
    next(tokens)
    assert idle(decoder) is None
    tokens.close()
    assert idle(decoder).cache.pool.num_free == idle(decoder).cache.pool.count


def test_other_weights_and_other_kernels_get_a_new_one(tiny):
    decoder = copy.deepcopy(tiny)
    decoder.generate(PROMPT, max_new_tokens=2)
    before = idle(decoder)
    calls.forget()
    decoder.generate(PROMPT, max_new_tokens=2)
    after = idle(decoder)
    assert after is not before
    decoder.norm.weight = torch.nn.Parameter(decoder.norm.weight.clone(), requires_grad=False)
    decoder.generate(PROMPT, max_new_tokens=2)
    assert idle(decoder) is not after


def test_copies_keep_none(tiny):
    decoder = copy.deepcopy(tiny)
    decoder.generate(PROMPT, max_new_tokens=2)
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert isinstance(other.idle_runner, IdleRunner)
        assert idle(other) is None
