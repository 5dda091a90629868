"""Tokenizers that are made of their parts are those that the library reads from JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_files import KINDS, byte_level
from tokenizers import Tokenizer, models

from bitnet_jit.generation import tokenizer_library
from bitnet_jit.generation.tokenizer_library import bpe_pieces, encoded, make_library

BPE = [kind for kind in KINDS if isinstance(kind().model, models.BPE)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_one_that_the_library_reads(kind):
    content = kind().to_str().encode()
    assert make_library(content).to_str() == Tokenizer.from_buffer(content).to_str()
    assert make_library(json.loads(content)).to_str() == Tokenizer.from_buffer(content).to_str()


@pytest.mark.parametrize("kind", BPE)
def test_a_bpe_model_goes_the_short_way(kind, monkeypatch):
    content = kind().to_str().encode()
    seen = []
    assembled = tokenizer_library.assembled
    monkeypatch.setattr(tokenizer_library, "assembled", lambda *parts: seen.append(assembled(*parts)) or seen[-1])
    assert make_library(content) is seen[0]


@given(text=st.text(max_size=30))
def test_texts_have_the_same_tokens(text):
    content = byte_level().to_str().encode()
    theirs, ours = Tokenizer.from_buffer(content), make_library(content)
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.encode(text + "<s>[TOOL]").ids == theirs.encode(text + "<s>[TOOL]").ids


CHANGES = {
    "a merge of no token": lambda model: model["merges"].append(["q", "no token"]),
    "a merge of three": lambda model: model["merges"].append(["a", "b", "c"]),
    "a vocabulary that is none": lambda model: model.update(vocab=[]),
    "a number as a token's id": lambda model: model["vocab"].update(a="b"),
    "an option that we do not know": lambda model: model.update(new_option=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_damage_is_told_as_the_library_tells_it(name):
    content = json.loads(byte_level().to_str())
    CHANGES[name](content["model"])
    results = []
    for make in (make_library, lambda given: Tokenizer.from_buffer(encoded(given))):
        try:
            results.append(make(content).to_str())
        except Exception as error:
            results.append(str(error))
    assert results[0] == results[1]


def test_models_of_other_kinds_and_what_is_no_json_are_left_to_the_library():
    assert bpe_pieces({"version": "1.0", "model": {"type": "Unigram"}}) is None
    for content in (b"", b"[" * 10**5, b"[1]", b"\xff", b'{"version": "1.0"}'):
        with pytest.raises(Exception, match=".") as error:
            make_library(content)
        assert "Error" in type(error.value).__name__ or type(error.value) is Exception
