"""Text in, text out."""

import pytest

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.text import stream_text

VERSE = "And it came to pass "


def test_pieces_make_the_text(tiny):
    pieces = list(stream_text(tiny, VERSE, max_new_tokens=16))
    assert len(pieces) == 17
    assert "".join(pieces) == "after the days o"


def test_stop_strings_stay_and_end_tokens_go(tiny, monkeypatch):
    assert "".join(stream_text(tiny, VERSE, stop="the")) == "after the"
    monkeypatch.setattr(tiny, "config", ending_at(tiny, "d"))
    assert "".join(stream_text(tiny, VERSE)) == "after the "


def ending_at(decoder, letter):
    """Return the decoder's config with another end token."""
    from dataclasses import replace

    return replace(decoder.config, eos_ids=(ord(letter),))


def test_arguments_are_checked_at_the_call(tiny, write_checkpoint):
    with pytest.raises(InvalidInput, match="prompt: expected at least one character"):
        stream_text(tiny, "")
    with pytest.raises(InvalidInput, match="top_k: .* got 0"):
        stream_text(tiny, VERSE, top_k=0)
    with pytest.raises(InvalidInput, match="prompt: this model came without a tokenizer"):
        stream_text(bitnet_jit.load(write_checkpoint(vocab_size=300)), VERSE)
