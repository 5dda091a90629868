"""Streams of text behind a prompt: together with the prompt they are the decoded text of all tokens."""

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_files import KINDS

from bitnet_jit.generation.tokenizer import ByteTokenizer, FileTokenizer
from bitnet_jit.generation.unicode import REPLACEMENT

WORDS = [
    "hello",
    "the",
    "world",
    "then",
    " ",
    "  ",
    ".",
    "'s",
    "é",
    "日本",
    "🙂",
    "\n",
    "</s>",
    "<|eot_id|>",
    "[TOOL]",
    "\ufffd",
]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), min_size=1, max_size=12).map(" ".join) | st.lists(
    st.sampled_from(WORDS), min_size=1, max_size=40
).map("".join)


@pytest.fixture(scope="module", params=[*KINDS, None], ids=lambda kind: kind.__name__ if kind else "bytes")
def tokenizer(request, tmp_path_factory):
    if request.param is None:
        return ByteTokenizer()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    request.param().save(str(path))
    return FileTokenizer(path)


def streamed(tokenizer, prompt, tokens, special=False) -> list[str]:
    """Return the pieces of a stream."""
    stream = tokenizer.stream(prompt, special)
    return [*map(stream.push, tokens), stream.finish()]


def decoded(tokenizer, tokens, special=False) -> str:
    return tokenizer.decode(tokens, special) if isinstance(tokenizer, FileTokenizer) else tokenizer.decode(tokens)


@given(text=TEXTS, data=st.data(), special=st.booleans())
@example(text="hello the world", data=None, special=False)
def test_prompt_and_stream_are_the_text_of_all_tokens(tokenizer, text, data, special):
    tokens = tokenizer.encode(text)
    splits = range(len(tokens) + 1) if data is None else [data.draw(st.integers(0, len(tokens)))]
    for split in splits:
        before, whole = decoded(tokenizer, tokens[:split], special), decoded(tokenizer, tokens, special)
        pieces = streamed(tokenizer, tokens[:split], tokens[split:], special)
        kept = os.path.commonprefix([before, whole])
        assert set(before[len(kept) :]) <= {REPLACEMENT}  # of a character that the prompt ends within; it comes whole
        assert kept + "".join(pieces) == whole


@given(text=TEXTS)
def test_a_piece_is_given_out_as_soon_as_its_characters_are_whole(tokenizer, text):
    tokens = tokenizer.encode(text)
    stream, given_out = tokenizer.stream(), ""
    for end, token in enumerate(tokens, 1):
        given_out += stream.push(token)
        certain = tokenizer.decode(tokens[:end])
        assert given_out == certain or REPLACEMENT in certain


@given(data=st.data())
def test_no_tokens_make_a_stream_take_back_or_lose_text(tokenizer, data):
    top = 255 if isinstance(tokenizer, ByteTokenizer) else tokenizer._library.get_vocab_size() - 1
    tokens = data.draw(st.lists(st.integers(0, top), max_size=30))
    split = data.draw(st.integers(0, len(tokens)))
    text = "".join(streamed(tokenizer, tokens[:split], tokens[split:]))
    whole = tokenizer.decode(tokens)
    kept = [letter for letter in whole if letter != REPLACEMENT]  # bytes that are no text may be told in other numbers
    given_out = [letter for letter in tokenizer.decode(tokens[:split]) + text if letter != REPLACEMENT]
    assert is_spread(kept, given_out)


def is_spread(part: list[str], whole: list[str]) -> bool:
    """Return whether all of a part is in the whole, in its order."""
    rest = iter(whole)
    return all(letter in rest for letter in part)


@settings(max_examples=settings.default.max_examples // 2)
@given(text=TEXTS, split=st.integers(0, 30))
def test_a_long_text_needs_its_last_tokens_only(tokenizer, text, split):
    tokens = tokenizer.encode(" ".join([text, "hello the world"] * 6))
    prompt, new = tokens[:split], tokens[split:]
    stream = tokenizer.stream(prompt)
    pieces = [stream.push(token) for token in new]
    whole = tokenizer.decode(tokens)
    kept = os.path.commonprefix([tokenizer.decode(prompt), whole])
    assert kept + "".join([*pieces, stream.finish()]) == whole
    if isinstance(tokenizer, FileTokenizer) and REPLACEMENT not in whole:
        assert len(stream._tokens) < 80


def test_the_first_space_of_a_continuation_is_kept(tokenizer):
    tokens = tokenizer.encode("hello the world")
    start = len(tokenizer.encode("hello"))
    assert "".join(streamed(tokenizer, tokens[:start], tokens[start:])) == tokenizer.decode(tokens)[len("hello") :]
