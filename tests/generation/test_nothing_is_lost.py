"""Bad input: each is named in words, at the call, and the next call runs as if nothing had been, all pages free."""

import copy
import math

import pytest
import torch

import bitnet_jit
from bitnet_jit.devices import memory
from bitnet_jit.errors import GenerationError, InvalidInput
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.text import stream_text
from bitnet_jit.runner.decode import Scores
from bitnet_jit.runner.runner import Runner

PROMPTS = [list(b"And it came to pass "), list(b"In the beginning God"), list(b"For")]
REPEATED = list(b"the son of Jeroham, the son of Eliel, the son of Toah, ")


@pytest.fixture
def decoder(tiny):
    """A decoder of its own, which has been called; behind the test it is called again."""
    decoder = copy.deepcopy(tiny)
    expected = decoder.generate(PROMPTS, max_new_tokens=6)
    yield decoder
    again = decoder.generate(PROMPTS, max_new_tokens=6)
    assert [row.tolist() for row in again] == [row.tolist() for row in expected]
    pool = decoder.idle_runner._runner.cache.pool
    assert pool.num_free == pool.count


BAD = {
    "context": ({"input_ids": [[1], [2] * 1025]}, r"input_ids: 1025 tokens, .* has room for 1024 \(in prompt 1\)"),
    "new tokens": ({"max_new_tokens": 1005}, "max_new_tokens: expected 1 to 1004, .* of 20 tokens .* 1024, got 1005"),
    "empty": ({"input_ids": [[1], [], [2]]}, r"input_ids: expected at least one token, .* \(in prompt 1\)"),
    "vocabulary": ({"input_ids": [[1], [2, 300]]}, r"input_ids: expected ids from 0 to 255, got 300 \(in prompt 1\)"),
    "negative": ({"input_ids": [[1], [2, -1]]}, r"input_ids: expected ids from 0 to 255, got -1 \(in prompt 1\)"),
    "int8": ({"input_ids": torch.ones(2, dtype=torch.int8)}, "input_ids: .* of int64, .* or uint8, got torch.int8"),
    "one bans": (
        {"sampling": [Sampling(), Sampling(banned_token_ids=[300]), Sampling()]},
        r"banned_token_ids: expected ids from 0 to 255, got 300 \(of prompt 1\)",
    ),
    "all ban": ({"sampling": Sampling(banned_token_ids=[300])}, r"banned_token_ids: .* got 300$"),
    "one asks": (
        {"sampling": [Sampling(), Sampling(), Sampling(logprobs=3)]},
        r"logprobs: expected None, .* got 3 \(of prompt 2\)",
    ),
    "no way": ({"speculate": "beam"}, "speculate: expected \"ngram\" or a decoder, got 'beam'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_leave_the_runner_where_it_is(decoder, case):
    options, words = BAD[case]
    runner = decoder.idle_runner._runner
    with pytest.raises(InvalidInput, match=words):
        decoder.generate(**{"input_ids": PROMPTS, **options})
    assert decoder.idle_runner._runner is runner


def test_a_draft_model_of_other_tokens_is_named_at_the_call(decoder, write_checkpoint):
    draft, runner = bitnet_jit.load(write_checkpoint(vocab_size=300)), decoder.idle_runner._runner
    words = "speculate: the draft model has a vocabulary of 300 tokens, this model one of 256; use a draft model of"
    for call in (decoder.generate, decoder.stream):
        with pytest.raises(InvalidInput, match=words):
            call(PROMPTS[0], speculate=draft)
    with pytest.raises(InvalidInput, match=words):
        stream_text(decoder, "And", speculate=draft)
    assert decoder.idle_runner._runner is runner


@pytest.mark.parametrize("speculate", [False, True])
def test_too_little_memory_is_named_by_what_the_caller_can_change(decoder, tiny, monkeypatch, speculate):
    words = (
        r"max_new_tokens: expected fewer tokens, or fewer prompts in a call; 40 texts of up to 40800 tokens together, "
        r"prompts included, are too much for memory \(.* needs .* MiB, more than there is; ask for less\)"
    )
    draft = copy.deepcopy(tiny) if speculate else None
    monkeypatch.setattr(memory, "total_memory", lambda: 2**20)
    with pytest.raises(InvalidInput, match=words):
        decoder.generate([PROMPTS[0]] * 40, max_new_tokens=1000, speculate=draft)


def test_memory_that_ends_is_named_at_the_call_of_stream(decoder, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda: 2**20)
    with pytest.raises(InvalidInput, match="max_new_tokens: .* 1 texts of up to 1020 "):
        decoder.stream(PROMPTS[0], max_new_tokens=1000)


def at_call(monkeypatch, call, change):
    """Change the logits that one of the following steps of any runner gives."""
    calls = 0

    def wrap(method):
        def wrapped(self, *args):
            nonlocal calls
            calls += 1
            result = method(self, *args)
            if calls != call:
                return result
            return Scores(change(result.logits), None) if isinstance(result, Scores) else change(result)

        return wrapped

    for name in ("step", "advance"):
        monkeypatch.setattr(Runner, name, wrap(getattr(Runner, name)))


def damage(monkeypatch, call, row, value):
    """Make one logit of one row NaN or infinite, in one step."""

    def change(logits):
        logits = logits.clone()
        logits[row, 7] = value
        return logits

    at_call(monkeypatch, call, change)


OPTIONS = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 3},
    "penalized": {"sampling": Sampling(0.8, seed=3, repetition_penalty=1.2)},
    "ngram": {"speculate": "ngram"},
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", OPTIONS)
def test_damaged_logits_end_their_own_text_alone(decoder, monkeypatch, kind, value):
    prompts, options = PROMPTS, {"max_new_tokens": 9, **OPTIONS[kind]}
    expected = [row.tolist() for row in decoder.generate(prompts, **options)]
    damage(monkeypatch, call=4, row=1, value=value)
    with pytest.raises(GenerationError, match="^prompt 1: the model computed logits that are NaN or infinite") as error:
        decoder.generate(prompts, **options)
    assert set(error.value.errors) == {1}
    texts = error.value.texts
    assert (texts[0], texts[2]) == (expected[0], expected[2])
    assert texts[1] == expected[1][: len(texts[1])]
    assert len(prompts[1]) < len(texts[1]) < len(expected[1])


def test_damaged_logits_of_a_guess_end_the_text_behind_the_tokens_before(decoder, monkeypatch):
    expected = decoder.generate(REPEATED, max_new_tokens=20).tolist()
    damage(monkeypatch, call=2, row=2, value=math.nan)  # the second call verifies guesses
    with pytest.raises(GenerationError, match="prompt 0: the model computed") as error:
        decoder.generate(REPEATED, max_new_tokens=20, speculate="ngram")
    (text,) = error.value.texts
    assert text == expected[: len(REPEATED) + 3]


def test_damaged_logits_of_a_draft_model_change_nothing(decoder, tiny):
    draft = copy.deepcopy(tiny)
    draft.logits = lambda hidden: torch.full((len(hidden), 256), math.nan)
    expected = decoder.generate(REPEATED, max_new_tokens=8)
    assert torch.equal(decoder.generate(REPEATED, max_new_tokens=8, speculate=draft), expected)


def test_a_stream_gives_what_it_had_before_damaged_logits(decoder, monkeypatch):
    expected = list(decoder.stream(PROMPTS[0], max_new_tokens=9))
    damage(monkeypatch, call=4, row=0, value=math.nan)
    stream = decoder.stream(PROMPTS[0], max_new_tokens=9)
    assert [next(stream) for _ in range(3)] == expected[:3]
    with pytest.raises(GenerationError, match="prompt 0: the model computed") as error:
        next(stream)
    assert error.value.texts == [[*PROMPTS[0], *expected[:3]]]


def test_an_error_of_a_kernel_frees_all_pages(decoder, monkeypatch):
    def fail(logits):
        raise RuntimeError("the device is gone")

    at_call(monkeypatch, 3, fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        decoder.generate(PROMPTS, max_new_tokens=6)
    pool = decoder.idle_runner._runner.cache.pool
    assert pool.num_free == pool.count


def test_options_that_leave_no_token_end_their_own_text_alone(decoder):
    options = [Sampling(), Sampling(logit_bias={5: 1e300}), Sampling(repetition_penalty=1.1)]
    with pytest.raises(GenerationError, match="^prompt 1: the options leave no token to choose") as error:
        decoder.generate(PROMPTS, max_new_tokens=5, sampling=options)
    expected = [decoder.generate(PROMPTS[row], max_new_tokens=5, sampling=options[row]).tolist() for row in (0, 2)]
    assert [error.value.texts[0], error.value.texts[2]] == expected
    assert error.value.texts[1] == PROMPTS[1]
