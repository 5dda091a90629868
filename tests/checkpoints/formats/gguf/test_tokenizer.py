"""Tokenizers in the metadata of GGUF files: the tokens of transformers' own conversion, and of the original."""

import json
import logging
import unicodedata
import warnings
from collections import Counter

import pytest
from gguf_files import write_gguf
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from bitnet_jit.checkpoints.formats.gguf.file import GgufFile
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.tokenizer import SPLITS, read_tokenizer
from bitnet_jit.errors import CheckpointError

SPECIAL = ["<s>", "</s>", "<|eot_id|>"]
CORPUS = [
    "The year 1984's über-long café: don't, we'll see 12345 naïve  words\r\n\n" * 3,
    "In the beginning God",
    "日本語 ok",
]
TEXTS = st.text(
    st.sampled_from(list(" aetThn'sGod19é日\n\rü.!-")) | st.characters(exclude_categories=["Cs"]), max_size=40
)


@pytest.fixture
def make(tmp_path):
    """Return a function that writes keys into a file and reads its tokenizer; an architecture may be given."""

    def make(architecture="llama", **keys):
        path = write_gguf(
            tmp_path / "model.gguf", {f"tokenizer.ggml.{name}": given for name, given in keys.items()}, {}
        )
        with GgufFile(path) as file:
            return read_tokenizer(Keys(file.metadata, str(path)), architecture, path)

    return make


def byte_level(pattern: str) -> tuple[Tokenizer, dict]:
    """Train a small tokenizer with a split; return it and its keys."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(CORPUS, trainer)
    by_id = {number: token for token, number in library.get_vocab().items()}
    tokens = [by_id[number] for number in range(len(by_id))]
    merges = [" ".join(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
    return library, {"tokens": tokens, "merges": merges, "token_type": [3, 3, 3] + [1] * (len(tokens) - 3)}


def converted(tokens, merges=None, token_type=None, kind="gpt2", pre=None, scores=None):
    """Return transformers' tokenizer of the same keys."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    keys = {"tokens": tokens, "token_type": token_type, "tokenizer_type": kind, "pre_tokenizer_type": pre}
    if merges is not None:
        keys["merges"] = merges
    if scores is not None:
        keys["scores"] = scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_gguf_tokenizer("llama", keys)[0]


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "qwen35"])
def test_byte_level_tokens_are_those_of_transformers(make, name):
    library, keys = byte_level(SPLITS[name].pattern)
    ours = make(model="gpt2", pre=name, **keys)
    theirs = converted(**keys, pre=name)

    @given(TEXTS)
    def compare(text):
        normal = unicodedata.normalize("NFC", text) if SPLITS[name].composes else text
        ids = theirs.encode(normal, add_special_tokens=False).ids
        assert ours.encode_part(text) == ids
        assert ids == library.encode(normal, add_special_tokens=False).ids
        assert ours.decode(ids) == normal

    compare()


def test_a_word_that_is_a_token_needs_no_merges(make):
    keys = {"tokens": [*SPECIAL, "a", "b", "ab"], "merges": [], "token_type": [3, 3, 3, 1, 1, 1]}
    assert make(model="gpt2", pre="llama-bpe", **keys).encode_part("ab") == [5]
    assert make(model="gpt2", pre="qwen2", **keys).encode_part("ab") == [3, 4]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"pre": "llama-bpe", "bos_token_id": 0}, [0, 3]),
        ({"pre": "llama-bpe", "bos_token_id": 0, "add_bos_token": False}, [3]),
        ({"pre": "qwen2", "bos_token_id": 0}, [3]),
        (
            {"pre": "qwen2", "bos_token_id": 0, "eos_token_id": 1, "add_bos_token": True, "add_eos_token": True},
            [0, 3, 1],
        ),
        ({"pre": "qwen2", "add_bos_token": True}, [3]),
    ],
)
def test_the_first_and_the_last_token_are_as_the_file_says(make, keys, expected):
    made = make(model="gpt2", tokens=[*SPECIAL, "a"], token_type=[3, 3, 3, 1], merges=[], **keys)
    assert made.encode("a") == expected


def test_special_tokens_are_found_in_texts_and_left_out_on_the_way_back(make):
    tokens = [*SPECIAL, "a", "<think>"]
    made = make(model="gpt2", pre="qwen2", tokens=tokens, token_type=[3, 3, 3, 1, 4], merges=[])
    assert made.encode_part("a<s>a<think>") == [3, 0, 3, 4]
    assert made.decode([3, 0, 3, 4]) == "aa<think>"
    assert made.special_ids("<|eot_id|>") == (2,)


def test_a_token_outside_the_byte_alphabet_is_spelled_in_it(make):
    made = make(model="gpt2", pre="qwen2", tokens=["a b", "é"], merges=[])
    assert made.decode([0]) == "a b"


@pytest.mark.parametrize(
    ("architecture", "keys", "words"),
    [
        ("bitnet-b1.58", {}, "tokenizer.ggml.pre is '': Llama 3's split is taken"),
        ("qwen3", {}, "tokenizer.ggml.pre is '': GPT-2's split is taken"),
        ("llama", {"pre": "falcon_e"}, "tokenizer.ggml.pre is 'falcon_e': Llama 3's split is taken"),
        ("llama", {"pre": "new"}, "tokenizer.ggml.pre is 'new': GPT-2's split is taken"),
    ],
)
def test_a_split_that_is_guessed_is_told(make, caplog, architecture, keys, words):
    with caplog.at_level(logging.WARNING):
        make(architecture, model="gpt2", tokens=["a"], merges=[], **keys)
    assert words in caplog.text


def sentencepiece() -> dict:
    """Return the keys of a small vocabulary with scores, and a token for each byte."""
    counts = Counter()
    for text in CORPUS:
        for word in text.replace(" ", " \u2581").split(" "):
            counts.update(word[start:end] for start in range(len(word)) for end in range(start + 1, len(word) + 1))
    words = [piece for piece, _ in counts.most_common(300) if "<" not in piece]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    scores = [0.0] * 259 + [-float(place) for place in range(len(words))]
    return {"tokens": tokens, "scores": scores, "token_type": [2, 3, 3] + [6] * 256 + [1] * len(words)}


def test_tokens_of_sentencepiece_are_those_of_transformers(make):
    keys = sentencepiece()
    ours = make(model="llama", unknown_token_id=0, bos_token_id=1, **keys)
    theirs = converted(**keys, kind="llama")

    @given(TEXTS)
    def compare(text):
        text = text.lstrip(" ")  # several spaces in front are one with transformers, and all of them with llama.cpp
        ids = ours.encode_part(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == [1, *ids]
        assert ours.decode(ids) == text

    compare()


def test_without_a_space_in_front(make):
    made = make(model="llama", unknown_token_id=0, add_space_prefix=False, add_bos_token=False, **sentencepiece())
    assert made.decode(made.encode("the beginning")) == "the beginning"
    assert made.encode("the") == made.encode_part("the")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "t5"}, "tokenizer.ggml.model: expected 'gpt2' or 'llama', found 't5'"),
        ({"tokens": 3}, "tokenizer.ggml.tokens: expected an array of strings, found 3"),
        ({"token_type": [1]}, r"token_type: expected an array of 2 numbers, found an array of 1: \[1\]"),
        ({"bos_token_id": 2, "add_bos_token": True}, "bos_token_id: expected a whole number from 0 to 1, found 2"),
        ({"add_bos_token": 3}, "add_bos_token: expected true or false, found 3"),
        ({"merges": ["a", "a c"]}, "expected a tokenizer of the tokenizers library"),
    ],
)
def test_keys_that_are_wrong_are_named(make, keys, words):
    with pytest.raises(CheckpointError, match=words):
        make(**{"model": "gpt2", "pre": "qwen2", "tokens": ["a", "b"], "merges": []} | keys)


def test_a_file_without_tokens_has_no_tokenizer(make):
    assert make(model="gpt2") is None
