"""A tokenizer -> the keys of a GGUF file; see `tokenizer.py` for the way back."""

import json
import logging
from typing import Any

from bitnet_jit.checkpoints.formats.gguf.tokenizer import SPLITS
from bitnet_jit.checkpoints.formats.tokenizer_json import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from bitnet_jit.generation.token_bytes import BYTE, OF_BYTES
from bitnet_jit.generation.tokenizer import ByteTokenizer, Tokenizer
from bitnet_jit.generation.tokenizer_file import FileTokenizer

logger = logging.getLogger(__name__)

UNUSED, OF_BYTE = 5, 6
BYTES = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": [chr(OF_BYTES[byte]) for byte in range(256)],
    "token_type": [NORMAL] * 256,
    "merges": [],
    "add_bos_token": False,
}


def tokenizer_keys(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """Return the keys of a tokenizer; none, and a warning is logged, where GGUF has no kind for it.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the embedding; ids behind the last token are unused.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return prefixed(BYTES)
    if not isinstance(tokenizer, FileTokenizer):
        return {}
    content = json.loads(tokenizer.content())
    added = {token["id"]: token for token in content["added_tokens"]}
    tokens = tokens_of(content, added, vocab_size) if content["model"]["type"] == "BPE" else []
    keys = model_keys(content, tokens) if tokens else None
    if keys is None:
        logger.warning("the tokenizer is of a kind that GGUF has no name for: the file gets none")
        return {}
    special = special_ids(content, added)
    types = [token_type(number, token, added, keys["model"]) for number, token in enumerate(tokens)]
    return prefixed({**keys, "tokens": tokens, "token_type": types, **special})


def prefixed(keys: dict[str, Any]) -> dict[str, Any]:
    """Return keys under their prefix."""
    return {f"tokenizer.ggml.{name}": given for name, given in keys.items()}


def model_keys(content: dict[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """Return the keys of byte-level BPE or of SentencePiece's; None for other kinds."""
    if any(step["type"] == "ByteLevel" for step in steps_of(content, "pre_tokenizer")):
        return byte_level_keys(content)
    return sentencepiece_keys(content, tokens) if content["model"].get("byte_fallback") else None


def steps_of(content: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the steps of a part of a tokenizer.json, one or a sequence."""
    given = content.get(part)
    if given is None:
        return []
    inner = {"pre_tokenizer": "pretokenizers", "normalizer": "normalizers"}[part]
    return list(given[inner]) if given["type"] == "Sequence" else [given]


def byte_level_keys(content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the keys of byte-level BPE; None where its split has no name."""
    patterns = [step["pattern"].get("Regex") for step in steps_of(content, "pre_tokenizer") if step["type"] == "Split"]
    names = [name for name, split in SPLITS.items() if patterns == ([split.pattern] if split.pattern else [])]
    preferred = [name for name in ("llama-bpe", "qwen2", "qwen35", "gpt-2") if name in names]
    if not preferred:
        return None
    return {"model": "gpt2", "pre": preferred[0], "merges": merges_of(content)}


def sentencepiece_keys(content: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Return the keys of SentencePiece's BPE, a score per token in the order of merges."""
    model = content["model"]
    scores = dict.fromkeys(model["vocab"], 0.0)
    for place, merge in enumerate(merges_of(content)):
        token = merge.replace(" ", "", 1)
        scores[token] = min(scores.get(token, 0.0), 0.0) or -float(place + 1)
    steps = steps_of(content, "normalizer") + steps_of(content, "pre_tokenizer")
    prefix = any(
        step["type"] == "Prepend" or (step["type"] == "Metaspace" and step["prepend_scheme"] != "never")
        for step in steps
    )
    unknown = model["vocab"].get(model.get("unk_token"))
    by_id = [scores.get(token, 0.0) for token in tokens]
    keys = {"model": "llama", "pre": "default", "scores": by_id, "add_space_prefix": prefix}
    return keys if unknown is None else keys | {"unknown_token_id": unknown}


def merges_of(content: dict[str, Any]) -> list[str]:
    """Return the merges of BPE, two words with a space between."""
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]


def tokens_of(content: dict[str, Any], added: dict[int, Any], vocab_size: int) -> list[str]:
    """Return the tokens by their ids, placeholders where there are none."""
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    for token, number in content["model"]["vocab"].items():
        tokens[number] = token
    for number, token in added.items():
        tokens[number] = token["content"]
    return tokens


def token_type(number: int, token: str, added: dict[int, Any], model: str) -> int:
    """Return the type of a token."""
    if number in added:
        kind = CONTROL if added[number]["special"] else USER_DEFINED
        return UNKNOWN if token == "<unk>" else kind
    if token == f"[PAD{number}]":
        return UNUSED
    return OF_BYTE if model == "llama" and BYTE.fullmatch(token) else NORMAL


def special_ids(content: dict[str, Any], added: dict[int, Any]) -> dict[str, Any]:
    """Return which tokens stand around a text."""
    keys: dict[str, Any] = {"add_bos_token": False, "add_eos_token": False}
    by_text = {token["content"]: number for number, token in added.items()}
    processors = [content.get("post_processor") or {}]
    processors += processors[0].get("processors", [])
    for processor in processors:
        parts = processor.get("single", []) if processor.get("type") == "TemplateProcessing" else []
        seen = False
        for part in parts:
            seen = seen or "Sequence" in part
            if "SpecialToken" in part and part["SpecialToken"]["id"] in by_text:
                name = "eos" if seen else "bos"
                keys[f"add_{name}_token"], keys[f"{name}_token_id"] = True, by_text[part["SpecialToken"]["id"]]
    return keys
