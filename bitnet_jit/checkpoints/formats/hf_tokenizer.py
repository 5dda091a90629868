"""The tokenizer of a folder of Hugging Face: tokenizer.json, or tokenizer.model with what lies beside it."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitnet_jit.checkpoints.formats.fields import LARGEST, Fields, is_there, read_json_if_there
from bitnet_jit.checkpoints.formats.hf_chat import CONFIG, special_tokens
from bitnet_jit.checkpoints.formats.sentencepiece_file import SentencePiece, read_sentencepiece_file
from bitnet_jit.checkpoints.formats.tokenizer_json import (
    added_token,
    added_tokens,
    around,
    bpe_model,
    merges_of,
    sentencepiece_parts,
    unigram_model,
)
from bitnet_jit.errors import CheckpointError
from bitnet_jit.generation.tokenizer import FILE, Tokenizer, find_tokenizer
from bitnet_jit.generation.tokenizer_file import FileTokenizer

MODEL, ADDED = "tokenizer.model", "added_tokens.json"


def folder_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """Return the tokenizer of tokenizer.json, else of tokenizer.model, else that of bytes where tokens are bytes.

    Raises:
        CheckpointError: a file is damaged.
    """
    if is_there(folder / FILE) or not is_there(folder / MODEL):
        return find_tokenizer(folder, vocab_size)
    return FileTokenizer(folder / MODEL, content_of(folder))


def content_of(folder: Path) -> dict[str, Any]:
    """Return what a tokenizer.json would hold: pieces, and tokens that were added beside them."""
    model = read_sentencepiece_file(folder / MODEL)
    config = Fields(read_json_if_there(folder / CONFIG) or {}, str(folder / CONFIG))
    named = special_tokens(config.values)
    added = {token["id"]: token for token in added_tokens(model.tokens, model.types)}
    added |= {token["id"]: token for token in added_later(folder, config, set(named.values()))}
    ids = {token: number for number, token in enumerate(model.tokens)}
    ids |= {token["content"]: number for number, token in added.items()}
    ends = {"bos": (model.bos_id, True), "eos": (model.eos_id, False)}
    texts: dict[str, tuple[str, int] | None] = {}
    for name, (number, default) in ends.items():
        text = named.get(f"{name}_token", model.tokens[number] if number >= 0 else None)
        wanted = config.flag(f"add_{name}_token", default) and text in ids
        texts[name] = (text, ids[text]) if wanted and text is not None else None
    return {
        "version": "1.0",
        "added_tokens": [added[number] for number in sorted(added)],
        "post_processor": around(texts["bos"], texts["eos"]),
        **parts_of(model),
    }


def parts_of(model: SentencePiece) -> dict[str, Any]:
    """Return normalizer, model and decoder."""
    first: list[dict[str, Any]] = []
    if model.charsmap:
        first.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.strips:
        first.append({"type": "Strip", "strip_left": True, "strip_right": True})
        first.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if not model.is_bpe:
        unigram = unigram_model(model.tokens, model.scores, model.unknown, model.byte_fallback)
        return sentencepiece_parts(unigram, model.prefix, first)
    vocabulary = {token: number for number, token in enumerate(model.tokens)}
    merges = merges_of(vocabulary, model.scores)
    bpe = bpe_model(vocabulary, merges, model.tokens[model.unknown], model.byte_fallback)
    return sentencepiece_parts(bpe, model.prefix, first)


def added_later(folder: Path, config: Fields, special: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the tokens of added_tokens.json, then those of added_tokens_decoder in tokenizer_config.json.

    Args:
        folder: the model's.
        config: tokenizer_config.json.
        special: the texts of special tokens, of which added_tokens.json does not say what they are.
    """
    older = read_json_if_there(folder / ADDED) or {}
    for text, number in older.items():
        if type(number) is not int or not 0 <= number <= LARGEST:
            raise CheckpointError(f"{folder / ADDED}: {text}: expected the id of a token, found {number!r}")
        yield added_token(number, text, text in special)
    newer = config.inner("added_tokens_decoder")
    for key, said in (newer.values if newer is not None else {}).items():
        if not key.isascii() or not key.isdecimal() or int(key) > LARGEST or not isinstance(said, dict):
            raise CheckpointError(f"{config.where}: added_tokens_decoder: {key}: expected an id and an object")
        fields = Fields(said, f"{config.where}: added_tokens_decoder: {key}")
        token = added_token(int(key), text_of(fields), fields.flag("special", False))
        yield token | {name: fields.flag(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized")}


def text_of(fields: Fields) -> str:
    """Return the text of a token."""
    text = fields.take("content", None, "a text")
    if not isinstance(text, str) or not text:
        raise fields.refuse("content", "a text")
    return text
