"""Bytes of tokens: by the tokenizers library's own decoding, and as llguidance reads them of the same file."""

import llguidance
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_files import byte_level, llama, metaspace, unigram, word_ends, word_level, word_piece

from bitnet_jit.engine.grammar.tokens import Tokens
from bitnet_jit.generation.token_bytes import SPACE, token_bytes

WITH_BYTES = {make.__name__: make() for make in (byte_level, llama, metaspace, unigram)}
TEXTS = st.text(st.sampled_from('abt h{}":,né😀\n\x02'), max_size=12) | st.text(max_size=6)


def special_of(library):
    return [number for number, token in library.get_added_tokens_decoder().items() if token.special]


@pytest.mark.parametrize("name", ["byte_level", "llama"])
def test_bytes_are_those_that_llguidance_reads_of_the_file(name):
    library = WITH_BYTES[name]
    reader, special = llguidance.LLTokenizer(library.to_str()), special_of(library)
    known = token_bytes(library)
    assert sorted(known) == list(range(library.get_vocab_size()))
    for token, text in known.items():
        if token not in special and text != b"\xff":  # which no text has; llguidance marks special tokens by it
            assert reader.decode_bytes([token]) == text


@pytest.mark.parametrize("name", WITH_BYTES)
@given(text=TEXTS)
@example("  ")
@example("a  b")
def test_the_tokens_of_a_text_have_its_bytes(name, text):
    library = WITH_BYTES[name]
    known, ids = token_bytes(library), library.encode(text, add_special_tokens=False).ids
    if not set(ids) & set(special_of(library)):
        normal = text if library.normalizer is None else library.normalizer.normalize_str(text)
        spaces = normal.replace(SPACE, " ") if name != "byte_level" else text
        assert b"".join(known[token] for token in ids) in (spaces.encode(), b" " + spaces.encode())


@pytest.mark.parametrize("make", [word_piece, word_level, word_ends])
def test_tokens_whose_text_depends_on_neighbours_have_none(make):
    assert token_bytes(make()) is None


@pytest.mark.parametrize("name", WITH_BYTES)
@given(text=TEXTS)
def test_what_must_be_written_is_given_in_tokens_of_just_these_bytes(name, text):
    library = WITH_BYTES[name]
    known, special = token_bytes(library), special_of(library)
    tokens = Tokens(
        [known[token] for token in range(len(known))],
        special[2:3],
        special,
        lambda part: library.encode(part, add_special_tokens=False).ids,
    )
    ids = tokens(text.encode())
    assert not set(ids) & set(special)
    assert b"".join(known[token] for token in ids) == text.encode()
