"""The tokenizer in the metadata of a GGUF file -> the content of a tokenizer.json.

Keys begin with `tokenizer.ggml.`: model ("gpt2" is byte-level BPE, "llama" SentencePiece's BPE), pre (which split
stands before the merges), tokens, scores, token_type, merges ("a b"), and special tokens with their use.

Types of tokens: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.sentencepiece import read_sentencepiece
from bitnet_jit.checkpoints.formats.tokenizer_json import NORMAL, added_tokens, around
from bitnet_jit.generation.token_bytes import spell
from bitnet_jit.generation.tokenizer_file import FileTokenizer

logger = logging.getLogger(__name__)

LLAMA3_WITHOUT_NAME = ("bitnet-b1.58", "bitnet-25")  # 2B-4T's official file names no split; it has Llama 3's tokens
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"


@dataclass(frozen=True)
class Split:
    """How text is cut before merges are looked for.

    Attributes:
        pattern: the pieces; "" is GPT-2's split, which the library has.
        whole_words: whether a piece that is a token is taken as it is, without merges.
        add_bos: whether texts begin with the first token where the file says nothing.
        composes: whether text is normalized to NFC before.
    """

    pattern: str = ""
    whole_words: bool = False
    add_bos: bool = False
    composes: bool = False


GPT2 = Split()
LLAMA3 = Split("|".join((CONTRACTIONS, WORDS, r"\p{N}{1,3}", OTHERS, SPACES)), whole_words=True, add_bos=True)
QWEN2 = Split("|".join((CONTRACTIONS, WORDS, r"\p{N}", OTHERS, SPACES)), composes=True)
QWEN35 = Split(
    "|".join(
        (
            CONTRACTIONS,
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
            r"\p{N}",
            r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            SPACES,
        )
    ),
    composes=True,
)
SPLITS = dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "smaug-bpe", "lfm2", "dbrx"), LLAMA3)
SPLITS |= {"qwen2": QWEN2, "deepseek-r1-qwen": QWEN2, "qwen35": QWEN35, "gpt-2": GPT2}
# what others take for names whose split is not published: ik_llama.cpp for Falcon-E, llama.cpp for GPT-2's kin
GUESSES = {"falcon_e": LLAMA3, "default": GPT2}


def read_tokenizer(keys: Keys, architecture: str, path: Path) -> FileTokenizer | None:
    """Return the tokenizer of a file, None where it has none.

    Raises:
        CheckpointError: a key is missing or wrong.
    """
    if not keys.has("tokenizer.ggml.tokens"):
        return None
    model = keys.word("tokenizer.ggml.model", ("gpt2", "llama"))
    tokens = keys.strings("tokenizer.ggml.tokens")
    types = keys.numbers("tokenizer.ggml.token_type", len(tokens), NORMAL).tolist()
    if model == "llama":
        parts, add_bos = read_sentencepiece(keys, tokens), True
    else:
        split = split_of(keys, architecture)
        parts, add_bos = byte_level_parts(keys, tokens, types, split), split.add_bos
    content = {
        "version": "1.0",
        "added_tokens": added_tokens(tokens, types),
        "post_processor": post_processor(keys, tokens, add_bos),
        **parts,
    }
    return FileTokenizer(path, content)


def split_of(keys: Keys, architecture: str) -> Split:
    """Return the split of a byte-level tokenizer; a warning is logged where it is a guess."""
    name = keys.text("tokenizer.ggml.pre", "")
    if name in SPLITS:
        return SPLITS[name]
    split = LLAMA3 if not name and architecture in LLAMA3_WITHOUT_NAME else GUESSES.get(name, GPT2)
    words = "GPT-2's" if split is GPT2 else "Llama 3's"
    logger.warning("%s: tokenizer.ggml.pre is %r: %s split is taken", keys.where, name, words)
    return split


def byte_level_parts(keys: Keys, tokens: Sequence[str], types: Sequence[int], split: Split) -> dict[str, Any]:
    """Return normalizer, pre-tokenizer, model and decoder of byte-level BPE."""
    vocabulary: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        vocabulary.setdefault(spell(token) if kind == NORMAL else token, number)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not split.pattern}
    steps: list[dict[str, Any]] = [byte_level]
    if split.pattern:
        cut = {"type": "Split", "pattern": {"Regex": split.pattern}, "behavior": "Isolated", "invert": False}
        steps.insert(0, cut)
    return {
        "normalizer": {"type": "NFC"} if split.composes else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "ignore_merges": split.whole_words,
            "vocab": vocabulary,
            "merges": [merge.split(" ", 1) for merge in keys.strings("tokenizer.ggml.merges")],
        },
    }


def post_processor(keys: Keys, tokens: Sequence[str], add_bos: bool) -> dict[str, Any] | None:
    """Return what puts the first and the last token around a text, where the file asks for them."""
    given: dict[str, tuple[str, int] | None] = {"bos": None, "eos": None}
    for key, name, default in (("bos", "add_bos_token", add_bos), ("eos", "add_eos_token", False)):
        number = keys.token(f"tokenizer.ggml.{key}_token_id", len(tokens))
        if keys.flag(f"tokenizer.ggml.{name}", default) and number is not None:
            given[key] = tokens[number], number
    return around(given["bos"], given["eos"])
