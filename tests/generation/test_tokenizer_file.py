"""tokenizer.json: truncation, padding and dropout, special tokens, and the limits of a file."""

import copy
import json
import logging
import pickle

import pytest
import torch
from tokenizer_files import KINDS, add_tokens, byte_level, llama

import bitnet_jit
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.generation.text import stream_text
from bitnet_jit.generation.tokenizer import ByteTokenizer


def dictate(monkeypatch, decoder, tokens):
    """Have the model choose these tokens in turn."""
    coming = iter(tokens)

    def logits(hidden):
        values = torch.zeros(*hidden.shape[:-1], decoder.config.vocab_size)
        values[..., next(coming)] = 9.0
        return values

    monkeypatch.setattr(decoder, "logits", logits)
    monkeypatch.setattr("bitnet_jit.runner.runner.can_capture", lambda device: False)  # a recorded step calls it once


def odd_sections(library):
    """Return a tokenizer's JSON with every section that changes a prompt in silence."""
    library.enable_truncation(3, stride=1, strategy="longest_first", direction="left")
    library.enable_padding(length=40, pad_id=2, pad_token="</s>")
    content = json.loads(library.to_str())
    if content["model"]["type"] == "BPE":
        content["model"]["dropout"] = 0.9
    return content


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_prompt_is_neither_cut_nor_padded_nor_drawn(write, kind):
    text = "hello the world then hello"
    expected = write(kind()).encode(text)
    changed = write(odd_sections(kind()))
    assert expected[0] == kind().token_to_id("<s>")  # tokens of the post-processor stay
    assert [changed.encode(text) for _ in range(5)] == [expected] * 5


def test_padding_that_no_memory_holds_is_not_asked_for(write):
    content = odd_sections(byte_level())
    content["padding"]["strategy"] = {"Fixed": 10**15}
    assert write(content).encode("hello") == write(byte_level()).encode("hello")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_tokenizer_is_copied_and_pickled(write, kind):
    tokenizer = write(kind())
    tokens = tokenizer.encode("hello the world")
    for copied in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert copied.encode("hello the world") == tokens
        assert copied.decode(tokens) == tokenizer.decode(tokens)


LONE = ["\udce9", "caf\udce9", "\ud83d", "\ude42\ud83d", "a\udc80b"]


@pytest.mark.parametrize("text", LONE)
def test_lone_surrogates_are_replaced_alike_everywhere(write, model, text):
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "\ufffd" in expected
    for tokenizer in (ByteTokenizer(), write(byte_level()), write(llama())):
        assert tokenizer.encode(text) == tokenizer.encode(expected)
        assert tokenizer.decode(tokenizer.encode(text)) == expected
    for decoder in (bitnet_jit.load(), model(byte_level())):
        assert list(stream_text(decoder, text, 3, stop=text)) == list(stream_text(decoder, expected, 3, stop=expected))


def test_a_pair_of_surrogates_is_its_character(write):
    for tokenizer in (ByteTokenizer(), write(byte_level())):
        assert tokenizer.decode(tokenizer.encode("\ud83d\ude42")) == "🙂"


@pytest.mark.parametrize("text", [None, 5, b"hello", ["hello"]])
def test_what_is_no_text_is_refused(write, text):
    for tokenizer in (ByteTokenizer(), write(byte_level())):
        with pytest.raises(InvalidInput, match="text: expected a str, got"):
            tokenizer.encode(text)
    with pytest.raises(InvalidInput, match="prompt: expected a str, got"):
        stream_text(bitnet_jit.load(), text)


@pytest.mark.parametrize("token", [-1, 2**32, 2**80, 1.5, "a", None, True])
def test_what_is_no_token_is_refused(write, token):
    for tokenizer in (ByteTokenizer(), write(byte_level())):
        with pytest.raises(InvalidInput, match="tokens: expected"):
            tokenizer.decode([1, token])


def test_tokens_of_every_kind_are_decoded(write):
    import numpy as np

    for tokenizer in (ByteTokenizer(), write(byte_level())):
        tokens = tokenizer.encode("hello")
        for kind in (tuple, np.array, torch.tensor, iter):
            assert tokenizer.decode(kind(tokens)) == "hello"


def test_special_tokens_stop_by_string_by_part_and_by_id(model, monkeypatch):
    decoder = model(byte_level(), eos_token_id=None)
    tokenizer = decoder.tokenizer
    prompt, eot = tokenizer.encode("hello"), tokenizer.special_ids("<|eot_id|>")[0]
    new = [*tokenizer.encode(" the")[1:], eot, *tokenizer.encode(" world")[1:]]
    before = new.index(eot)
    stops = ["<|eot_id|>", "the<|eot_id|>", "<|eot", "eot_id|> ", eot, [eot], ["nothing", "<|eot_id|>"], ("x", eot)]
    for stop in stops:
        dictate(monkeypatch, decoder, new)
        tokens = list(decoder.stream(prompt, len(new), stop=stop))
        assert tokens == new[: before + (2 if stop == "eot_id|> " else 1)], stop
        dictate(monkeypatch, decoder, new)
        assert decoder.generate(prompt, len(new), stop=stop).tolist() == [*prompt, *tokens]
        dictate(monkeypatch, decoder, new)
        text = "".join(stream_text(decoder, "hello", len(new), stop=stop))
        assert text.startswith(" the")
        assert "eot" not in text
    dictate(monkeypatch, decoder, new)
    assert len(list(decoder.stream(prompt, len(new), stop="the wor"))) > before  # special tokens left out


def test_a_stop_string_may_begin_with_the_space_behind_the_prompt(model, monkeypatch):
    decoder = model(llama(), eos_token_id=None)
    everything = decoder.tokenizer.encode("hello the world")
    start = len(decoder.tokenizer.encode("hello"))
    for stop in (" the", "the", " "):
        dictate(monkeypatch, decoder, everything[start:])
        prompts = [everything[:start]] * 2
        assert decoder.generate(prompts, 2, stop=stop).shape == (2, start + 1)


def test_ids_that_one_side_lacks_are_told_in_words(model, monkeypatch, caplog):
    library = byte_level()
    decoder = model(library, vocab_size=library.token_to_id("[TOOL]"))
    with pytest.raises(InvalidInput, match="prompt: the tokenizer makes the token 275 .* vocabulary ends at 274"):
        stream_text(decoder, "hello [TOOL]")
    assert "".join(stream_text(decoder, "hello", 2)) is not None
    decoder = model(library, name="roomy", vocab_size=320)
    dictate(monkeypatch, decoder, [300, 300, *library.encode(" the").ids[1:]])
    with caplog.at_level(logging.WARNING):
        assert "".join(stream_text(decoder, "hello", 3)).startswith(" t")
    assert [record.getMessage().partition(" has ")[2] for record in caplog.records] == [
        "no token of the id 300, which the model's vocabulary has"
    ]


def test_a_text_that_makes_no_token_is_refused(model):
    from tokenizers import Tokenizer, models, normalizers

    library = Tokenizer(models.BPE({"a": 0}, []))
    library.normalizer = normalizers.Strip()
    for number in range(2):
        decoder = model(library, name=f"model {number}")
        with pytest.raises(InvalidInput, match="prompt: the model's tokenizer makes no token of '  '"):
            stream_text(decoder, "  ")
        add_tokens(library)  # <s> before every text makes a text of nothing no prompt
    assert len(list(stream_text(decoder, "<s>", 1))) == 2


def test_a_file_without_a_token_for_a_text_is_told_in_words(write):
    content = json.loads(byte_level().to_str())
    for kind in (
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"},
        {"type": "Unigram", "vocab": [["a", 0.0]]},
    ):
        tokenizer = write({**content, "model": kind, "post_processor": None, "pre_tokenizer": None, "added_tokens": []})
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: makes no tokens of the text 'zebra' \("):
            tokenizer.encode("zebra")
