"""Steps that begin before their tokens have come to the host, as on a GPU: here on the CPU, with the same texts."""

import math

import pytest

from bitnet_jit.errors import GenerationError
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.runner.runner import Runner

PROMPTS = [list(b"And it came to pass "), list(b"In the beginning God"), list(b"For"), list(b"Thus saith the LORD")]
OPTIONS = [
    Sampling(),
    Sampling(1.0, seed=3),
    Sampling(0.8, seed=4, repetition_penalty=1.2),
    Sampling(0.7, top_k=9, seed=5),
]


@pytest.fixture
def ahead(monkeypatch):
    """Return a function that lets runners say that they run ahead."""
    return lambda: monkeypatch.setattr(Runner, "runs_ahead", property(lambda self: True))


def lists(texts):
    return [row.tolist() for row in texts]


@pytest.mark.parametrize("limit", [1, 2, 17])
@pytest.mark.parametrize("stop", [(), "e", [ord("t"), " the"]])
def test_texts_are_those_of_steps_that_wait(tiny, ahead, limit, stop):
    options = {"max_new_tokens": limit, "sampling": OPTIONS, "stop": stop}
    expected = lists(tiny.generate(PROMPTS, **options))
    ahead()
    assert lists(tiny.generate(PROMPTS, **options)) == expected
    pool = tiny.idle_runner._runner.cache.pool
    assert pool.num_free == pool.count


def test_damaged_logits_end_their_own_text_alone(tiny, ahead, monkeypatch):
    expected = lists(tiny.generate(PROMPTS, max_new_tokens=8, sampling=OPTIONS))
    ahead()
    advance, calls = Runner.advance, 0

    def damaged(self, *args):
        nonlocal calls
        calls += 1
        logits = advance(self, *args)
        if calls == 3:
            logits = logits.clone()
            logits[1, 7] = math.nan
        return logits

    monkeypatch.setattr(Runner, "advance", damaged)
    with pytest.raises(GenerationError, match="^prompt 1: the model computed logits that are NaN") as error:
        tiny.generate(PROMPTS, max_new_tokens=8, sampling=OPTIONS)
    texts = error.value.texts
    assert [texts[row] for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]
    assert texts[1] == expected[1][: len(PROMPTS[1]) + 3]


def test_a_stream_that_is_closed_frees_its_pages(tiny, ahead):
    expected = list(tiny.stream(PROMPTS[0], max_new_tokens=9))
    ahead()
    stream = tiny.stream(PROMPTS[0], max_new_tokens=9)
    assert [next(stream) for _ in range(4)] == expected[:4]
    stream.close()
    pool = tiny.idle_runner._runner.cache.pool
    assert pool.num_free == pool.count
