"""tokenizer.model: the tokens and texts of the sentencepiece package, whatever the text; damage is told in words."""

import io
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.hf_tokenizer import MODEL, folder_tokenizer
from bitnet_jit.checkpoints.formats.sentencepiece_file import parse_model, read_sentencepiece_file
from bitnet_jit.errors import CheckpointError

sentencepiece = pytest.importorskip("sentencepiece")
TEXT = (Path(__file__).parents[2] / "data" / "kjv_val_16k.txt").read_text(errors="replace")
TEXTS = st.text(alphabet="abcdehilnorst ATG.,:\n", max_size=30) | st.text(max_size=10)
KINDS = {
    "bpe": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
    "bpe, characters that are normalized": {"model_type": "bpe", "remove_extra_whitespaces": True},
    "unigram": {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity"},
    "unigram, no prefix": {"model_type": "unigram", "add_dummy_prefix": False, "remove_extra_whitespaces": True},
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    """Train a small model of each kind."""
    options = {"remove_extra_whitespaces": False, **KINDS[request.param]}
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=file,
        vocab_size=450,
        character_coverage=1.0,
        user_defined_symbols=["<sep>"],
        minloglevel=2,
        **options,
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def pair(model, tmp_path_factory):
    """Return the tokenizer of a folder, without tokens around a text, and that of the package."""
    folder = tmp_path_factory.mktemp("model")
    (folder / MODEL).write_bytes(model)
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    return folder_tokenizer(folder, 450), sentencepiece.SentencePieceProcessor(model_proto=model)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_tokens_are_those_of_the_package(pair, text):
    ours, theirs = pair
    expected = theirs.encode(text)
    if theirs.unk_id() not in expected and "<" not in text:
        assert ours.encode(text) == expected
        assert ours.decode(expected) == theirs.decode(expected)


def test_long_texts_have_the_tokens_of_the_package(pair):
    ours, theirs = pair
    for line in TEXT.splitlines()[:40]:
        assert ours.encode(line) == theirs.encode(line)


def test_every_field_is_that_of_the_package(model, tmp_path):
    (tmp_path / MODEL).write_bytes(model)
    ours, theirs = read_sentencepiece_file(tmp_path / MODEL), sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(theirs.vocab_size())
    assert ours.tokens == [theirs.id_to_piece(number) for number in ids]
    assert ours.scores == [theirs.get_score(number) for number in ids]
    assert [kind == 3 for kind in ours.types] == [theirs.is_control(number) for number in ids]
    assert [kind == 6 for kind in ours.types] == [theirs.is_byte(number) for number in ids]
    assert (ours.unknown, ours.bos_id, ours.eos_id) == (theirs.unk_id(), theirs.bos_id(), theirs.eos_id())
    assert ours.types[ours.tokens.index("<sep>")] == 4


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_is_told_or_gives_another_model(model, data):
    """Bytes that are lost or changed: a ValueError, or a model, and no other error."""
    place = data.draw(st.integers(0, len(model) - 1))
    damaged = data.draw(st.sampled_from([model[:place], model[:place] + model[place + 1 :], None]))
    if damaged is None:
        damaged = model[:place] + bytes([data.draw(st.integers(0, 255))]) + model[place + 1 :]
    try:
        parse_model(damaged)
    except ValueError:
        return


def field(number, value):
    """Return a field of a message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number):
    """Return a number, seven bits per byte."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*content, number])


def piece(text, score=0.0, kind=1):
    """Return a piece of a model."""
    return field(1, field(1, text) + field(2, score) + field(3, kind))


UNKNOWN = piece(b"<unk>", kind=2)
ENDS = piece(b"<s>", kind=3) + piece(b"</s>", kind=3)
LETTERS = b"".join(piece(letter, -1.0) for letter in (b"a", b"b", "\u2581".encode()))
SMALL = UNKNOWN + ENDS + LETTERS + piece(b"ab", -0.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 unknown pieces"),
        (UNKNOWN + UNKNOWN, "2 unknown pieces, 1 pieces twice"),
        (SMALL + piece(b"a"), "1 pieces twice"),
        (SMALL + piece(b"\xff"), "can't decode"),
        (SMALL + piece(b""), "piece 7 without a text"),
        (SMALL + piece(b"x", float("nan")), "piece 7 of the score nan"),
        (SMALL + piece(b"x", 0.0, 9), "a type from 1 to 6"),
        (SMALL[:-1], "a field of"),
        (SMALL + field(2, field(3, 3)), "a model of the type 3; expected 1"),
        (SMALL + field(2, field(3, b"x")), "bytes where a number stands"),
        (SMALL + field(2, 7), "the number 7 where a message"),
        (SMALL + field(2, field(24, 1)), "treat_whitespace_as_suffix"),
        (SMALL + field(3, field(5, 0)), "escape_whitespaces"),
        (SMALL + field(2, field(41, 99)), "the tokens 99 and 2 around a text, of 7"),
        (SMALL + b"\x03", "wire type 3"),
        (SMALL + b"\x80", "its end within a number"),
        (SMALL + b"\xff" * 11, "more than 64 bits"),
    ],
)
def test_damage_is_refused_in_words(tmp_path, content, words):
    (tmp_path / MODEL).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        folder_tokenizer(tmp_path, 300)
    assert str(caught.value).startswith(f"{tmp_path / MODEL}: expected a SentencePiece model, found ")
    assert words in str(caught.value)


def small(folder, config=None, added=None, extra=b""):
    """Return the tokenizer of a folder with a small model of BPE."""
    (folder / MODEL).write_bytes(SMALL + field(2, field(3, 2) + extra) + field(3, field(4, 0)))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if added is not None:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder_tokenizer(folder, 300)


def test_what_stands_around_a_text(tmp_path):
    assert small(tmp_path).encode("ab") == [1, 5, 6]
    assert small(tmp_path, {"add_eos_token": True, "add_bos_token": False}).encode("ab") == [5, 6, 2]
    assert small(tmp_path, {"bos_token": {"content": "</s>"}}).encode("ab") == [2, 5, 6]
    assert small(tmp_path, {"bos_token": "none"}).encode("ab") == [5, 6]
    assert small(tmp_path, {}, extra=field(41, -1)).encode("ab") == [5, 6]


def test_tokens_that_were_added(tmp_path):
    decoder = {"7": {"content": "<|im|>", "special": True}, "8": {"content": "<x>", "rstrip": True}}
    tokenizer = small(tmp_path, {"added_tokens_decoder": decoder, "pad_token": "<pad>"}, {"<pad>": 9, "<y>": 10})
    assert tokenizer.encode("<|im|><pad><y>") == [1, 7, 9, 10]
    assert tokenizer.special_ids("<|im|>") == (7,)
    assert tokenizer.decode([7, 9, 10, 6]) == "<y>ab"
    for config, words in (
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder: x: expected an id"),
        ({"added_tokens_decoder": {"7": {"content": 3}}}, "content: expected a text, found 3"),
        ({"add_bos_token": "yes"}, "add_bos_token: expected true or false, found 'yes'"),
    ):
        with pytest.raises(CheckpointError, match=words):
            small(tmp_path, config)
    with pytest.raises(CheckpointError, match="added_tokens.json: <pad>: expected the id of a token, found -1"):
        small(tmp_path, {}, {"<pad>": -1})


def test_tokenizer_json_comes_first(tmp_path):
    small(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer.json: expected a tokenizer"):
        folder_tokenizer(tmp_path, 300)


def test_tokens_are_those_of_transformers(tmp_path):
    """Texts that begin with a space are left out: there version 5 differs from the sentencepiece package."""
    transformers = pytest.importorskip("transformers")
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=file,
        vocab_size=450,
        minloglevel=2,
        **KINDS["bpe"],
        remove_extra_whitespaces=False,
    )
    (tmp_path / MODEL).write_bytes(file.getvalue())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true}')
    ours = folder_tokenizer(tmp_path, 450)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for line in (*TEXT.splitlines()[:20], "", "née 🙂", "Abram  went\n"):
        assert ours.encode(line) == theirs.encode(line)
