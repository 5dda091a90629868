"""Speculative decoding: the text of plain decoding, token for token, greedy and drawn, by n-grams and by a model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.ngram import SIZES, NGrams
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.speculation import Speculation

REPEATED = list(b"the son of Jeroham, the son of Eliel, the son of Toah, ")


def prompts_of(kjv, number):
    return [kjv[index % len(kjv), index : index + 20 + index].tolist() for index in range(number)]


@pytest.mark.parametrize("options", [Sampling(), Sampling(1.0, seed=5), Sampling(0.7, top_p=0.9, seed=6)])
def test_ngrams_leave_the_text_as_it_is(tiny, kjv, options):
    prompts, speculation = [REPEATED, *prompts_of(kjv, 7)], Speculation("ngram")
    plain = tiny.generate(prompts, max_new_tokens=24, sampling=options, stop="\n")
    guessed = tiny.generate(prompts, max_new_tokens=24, sampling=options, stop="\n", speculate=speculation)
    assert [row.tolist() for row in guessed] == [row.tolist() for row in plain]
    assert 0 < speculation.accepted < speculation.drafted


@pytest.mark.parametrize("options", [Sampling(), Sampling(1.0, seed=5)])
def test_a_draft_model_leaves_the_text_as_it_is(write_checkpoint, options):
    decoder = bitnet_jit.load(write_checkpoint())
    drafts = {"itself": decoder, "another": bitnet_jit.load(write_checkpoint(name="draft", num_hidden_layers=1))}
    prompts = [[1, 2, 3], [7] * 20, [5, 6]]
    plain = decoder.generate(prompts, max_new_tokens=30, sampling=options)
    for name, draft in drafts.items():
        speculation = Speculation(draft, max_tokens=5)
        guessed = decoder.generate(prompts, max_new_tokens=30, sampling=options, speculate=speculation)
        assert [row.tolist() for row in guessed] == [row.tolist() for row in plain]
        if name == "itself" and options == Sampling():
            assert speculation.accepted == speculation.drafted > 0


def test_a_model_that_guesses_right_saves_steps(tiny):
    speculation = Speculation(tiny, max_tokens=4)
    expected = tiny.generate(REPEATED, max_new_tokens=25)
    assert torch.equal(tiny.generate(REPEATED, max_new_tokens=25, speculate=speculation), expected)
    assert (speculation.steps, speculation.drafted, speculation.accepted) == (5, 19, 19)
    assert str(speculation) == "19 of 19 guesses accepted (100%), 4.80 tokens per step"


def test_penalized_texts_are_not_guessed(tiny):
    speculation, options = Speculation("ngram"), Sampling(frequency_penalty=0.5)
    guessed = tiny.generate(REPEATED, max_new_tokens=12, sampling=options, speculate=speculation)
    assert torch.equal(guessed, tiny.generate(REPEATED, max_new_tokens=12, sampling=options))
    assert speculation.drafted == 0


def test_stream_speculates_too(tiny):
    expected = tiny.generate(REPEATED, max_new_tokens=20)[len(REPEATED) :].tolist()
    assert list(tiny.stream(REPEATED, max_new_tokens=20, speculate="ngram")) == expected


def test_a_draft_of_a_short_context_stops_guessing(write_checkpoint):
    decoder = bitnet_jit.load(write_checkpoint(eos_token_id=None))
    draft = bitnet_jit.load(write_checkpoint(name="short", max_position_embeddings=16, eos_token_id=None))
    expected = decoder.generate([1, 2], max_new_tokens=40)
    assert torch.equal(decoder.generate([1, 2], max_new_tokens=40, speculate=draft), expected)


def test_bad_ways_to_speculate_are_named(tiny, write_checkpoint):
    other = bitnet_jit.load(write_checkpoint(vocab_size=300))
    cases = [
        ("beam", "speculate: expected \"ngram\" or a decoder, got 'beam'"),
        (3, 'speculate: expected "ngram" or a decoder, got 3'),
        (other, "speculate: the draft model has a vocabulary of 300 tokens, this model one of 256"),
    ]
    for value, words in cases:
        with pytest.raises(InvalidInput, match=words):
            tiny.generate([1, 2], speculate=value)
    with pytest.raises(InvalidInput, match="max_tokens: expected .* got 65"):
        Speculation("ngram", max_tokens=65)


@given(tokens=st.lists(st.integers(0, 2), max_size=40), cuts=st.lists(st.integers(0, 40)), most=st.integers(1, 6))
@settings(deadline=None)
def test_ngrams_find_the_last_place_of_the_longest_known_end(tokens, cuts, most):
    ngrams = NGrams()
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        ngrams.extend(tokens[start:stop])
    expected = []
    for size in sorted(SIZES, reverse=True):
        places = [p for p in range(size, len(tokens)) if tokens[p - size : p] == tokens[len(tokens) - size :]]
        if places:
            expected = tokens[places[-1] : places[-1] + most]
            break
    assert ngrams.following(most) == expected
