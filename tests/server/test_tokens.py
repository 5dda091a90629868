"""Tokens of file tokenizers: how each reads alone, and chats whose template writes the special ones itself."""

import pytest
import tokenizer_files

from bitnet_jit.engine.text.generation import TokenLogprobs
from bitnet_jit.generation.tokenizer_file import FileTokenizer
from bitnet_jit.server.chat import without_added
from bitnet_jit.server.token_texts import TokenTexts

SPACED = (tokenizer_files.byte_level, tokenizer_files.llama, tokenizer_files.metaspace, tokenizer_files.unigram)


@pytest.fixture
def load(tmp_path):
    """Return a loader of a kind of tokenizer."""

    def make(kind):
        kind().save(str(tmp_path / "tokenizer.json"))
        return FileTokenizer(tmp_path / "tokenizer.json")

    return make


@pytest.mark.parametrize("kind", SPACED, ids=lambda kind: kind.__name__)
def test_names_keep_the_spaces_that_decoders_drop(load, kind):
    tokenizer = load(kind)
    texts = TokenTexts(tokenizer)
    tokens = without_added(tokenizer.encode("hello the world then"), tokenizer.encode(""))
    names = [texts.name(token) for token in tokens]
    assert "".join(names).strip() == "hello the world then"
    assert " the" in names
    assert [bytes(texts.utf8(token)).decode() for token in tokens] == names


@pytest.mark.parametrize("kind", tokenizer_files.KINDS, ids=lambda kind: kind.__name__)
def test_each_token_has_a_name(load, kind):
    texts = TokenTexts(load(kind))
    for token in range(kind().get_vocab_size()):
        assert texts.name(token)
        assert texts.name(token).startswith("token_id:") == (texts.utf8(token) is None)
    special = kind().token_to_id("</s>")
    assert texts.name(special).strip() == "</s>"


def test_tokens_that_read_alike_are_told_apart(load):
    texts = TokenTexts(load(tokenizer_files.llama))
    letter, byte = (
        kind.token_to_id(name) for kind, name in zip([tokenizer_files.llama()] * 2, ("a", "<0x61>"), strict=True)
    )
    assert texts.name(letter) == texts.name(byte) == "a"
    values = TokenLogprobs(-0.5, ((byte, -0.25), (letter, -0.5)))
    assert texts.likeliest(letter, values) == {"a": -0.5, f"token_id:{byte}": -0.25}


@pytest.mark.parametrize("kind", tokenizer_files.KINDS, ids=lambda kind: kind.__name__)
def test_a_template_writes_the_first_token_itself(load, kind):
    """So the tokenizer's is taken away, and one remains."""
    tokenizer = load(kind)
    begin = kind().token_to_id("<s>")
    tokens = without_added(tokenizer.encode("<s>hello"), tokenizer.encode(""))
    assert tokens.count(begin) == 1
    assert tokens[0] == begin
    assert begin not in without_added(tokenizer.encode("hello"), tokenizer.encode(""))


def test_tokens_behind_a_text_are_taken_away_too():
    assert without_added([1, 5, 6, 2], [1, 2]) == [5, 6]
    assert without_added([5, 6, 2], [2]) == [5, 6]
    assert without_added([1, 5], [1]) == [5]
    assert without_added([5, 6], []) == [5, 6]
    assert without_added([5], [1]) == [5]
    assert without_added([1], [1]) == []
