"""Steps that begin before their tokens have come to the host, as on a GPU: here on the CPU, with the same texts.

By graphs, which end with the largest logits and raise positions themselves: what stands for one runs its function anew.
"""

import math
from dataclasses import replace

import pytest
import torch

from bitnet_jit.devices.kinds import KINDS, kind_of
from bitnet_jit.errors import GenerationError
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.models.network import Network
from bitnet_jit.runner.decode import Scores
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

PROMPTS = [list(b"And it came to pass "), list(b"In the beginning God"), list(b"For"), list(b"Thus saith the LORD")]
OPTIONS = [
    Sampling(),
    Sampling(1.0, seed=3),
    Sampling(0.8, seed=4, repetition_penalty=1.2),
    Sampling(0.7, top_k=9, seed=5),
]


def capture(forward, device):
    """Return what runs a function anew and writes its results where those of a first run lie, and these."""
    result = forward()
    kept = (result.logits, result.largest.values, result.largest.codes)

    def replay():
        logits, largest = forward()
        for tensor, new in zip(kept, (logits, largest.values, largest.codes), strict=True):
            tensor.copy_(new)

    return replay, result


def begin_fetch(tensor):
    """Return what gives back a tensor as it is now."""
    copied = tensor.clone()
    return lambda: copied


@pytest.fixture(params=["recorded", "by graphs"])
def ahead(request, monkeypatch, tiny):
    """Return a function that lets runners run ahead, by steps as a CPU has them, or as if there were graphs."""

    def begin():
        tiny.idle_runner._runner = None
        if request.param == "by graphs":
            kind = replace(KINDS["cpu"], capture=capture, records=False, begin_fetch=begin_fetch)
            monkeypatch.setitem(KINDS, "cpu", kind)
        else:
            monkeypatch.setattr(Runner, "runs_ahead", property(lambda self: True))

    yield begin
    tiny.idle_runner._runner = None


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
        scores = advance(self, *args)
        if calls == 3:
            scores.logits[1, 7] = math.nan
            return Scores(scores.logits, None)
        return scores

    monkeypatch.setattr(Runner, "advance", damaged)
    with pytest.raises(GenerationError, match="^prompt 1: the model computed logits that are NaN") as error:
        tiny.generate(PROMPTS, max_new_tokens=8, sampling=OPTIONS)
    texts = error.value.texts
    assert [texts[row] for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]
    assert texts[1] == expected[1][: len(PROMPTS[1]) + 3]


@pytest.mark.parametrize("options", [Sampling(), OPTIONS], ids=["greedy", "mixed"])
def test_pages_are_crossed_and_texts_end_one_by_one(tiny, ahead, options):
    """Positions that a step has raised, rows that leave, and pages that begin: the tables change then."""
    prompts = [[*prompt, *range(32, 32 + more)] for prompt, more in zip(PROMPTS, (39, 41, 60, 0), strict=True)]
    alone = [
        tiny.generate([prompt], max_new_tokens=80, sampling=options if isinstance(options, Sampling) else options[row])
        for row, prompt in enumerate(prompts)
    ]
    stop = [int(text[0, len(prompt) + 33]) for text, prompt in zip(alone, prompts, strict=True)]
    expected = lists(tiny.generate(prompts, max_new_tokens=80, sampling=options, stop=stop))
    assert len(set(map(len, expected))) > 2
    ahead()
    assert lists(tiny.generate(prompts, max_new_tokens=80, sampling=options, stop=stop)) == expected
    for row, text in enumerate(alone):
        one = options if isinstance(options, Sampling) else options[row]
        assert torch.equal(tiny.generate([prompts[row]], max_new_tokens=80, sampling=one), text)


def test_damage_within_a_step_is_told_by_its_code(tiny, ahead, monkeypatch):
    expected = lists(tiny.generate(PROMPTS, max_new_tokens=8, sampling=Sampling()))
    ahead()
    run, calls = Network.run_to_logits, 0

    def damaged(self, *args):
        nonlocal calls
        logits = run(self, *args)
        calls += 1
        if calls == 4:
            logits[2, 9] = math.nan
        return logits

    if kind_of(tiny.device).capture is None:
        pytest.skip("a recorded step calls no Python")
    monkeypatch.setattr(Network, "run_to_logits", damaged)
    with pytest.raises(GenerationError, match="^prompt 2: the model computed logits that are NaN") as error:
        tiny.generate(PROMPTS, max_new_tokens=8, sampling=Sampling())
    assert [error.value.texts[row] for row in (0, 1, 3)] == [expected[row] for row in (0, 1, 3)]


def test_a_step_that_is_interrupted_is_told_all_again(tiny, ahead):
    """Whether the device has raised positions is not known then: they are copied, not guessed."""
    ahead()
    runner, prompt = Runner(tiny, 4), PROMPTS[0]
    if not runner.runs_ahead or runner._decode is None or kind_of(tiny.device).capture is None:
        pytest.skip("positions are written by the host")
    sequence = runner.cache.new_sequence()
    runner.step([Chunk(sequence, prompt)])
    tokens = torch.tensor([65])
    runner.advance([sequence], tokens)
    expected = runner.advance([sequence], tokens).logits.clone()
    runner.cache.truncate(sequence, len(prompt))
    runner.advance([sequence], tokens)
    (step,) = runner._decode._steps.values()
    replay = step._replay

    def interrupted():
        replay()
        raise KeyboardInterrupt

    step._replay = interrupted
    with pytest.raises(KeyboardInterrupt):
        runner.advance([sequence], tokens)
    step._replay = replay
    assert torch.equal(runner.advance([sequence], tokens).logits, expected)


def test_a_stream_that_is_closed_frees_its_pages(tiny, ahead):
    expected = list(tiny.stream(PROMPTS[0], max_new_tokens=9))
    ahead()
    stream = tiny.stream(PROMPTS[0], max_new_tokens=9)
    assert [next(stream) for _ in range(4)] == expected[:4]
    stream.close()
    pool = tiny.idle_runner._runner.cache.pool
    assert pool.num_free == pool.count
