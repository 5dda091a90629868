"""Parts of a tokenizer.json that are made of tokens: SentencePiece's two models, special tokens, what stands around.

A SentencePiece vocabulary has a score per token and no merges: two tokens merge where their joint text is a token, the
token with the highest score first. So a merge stands for each split of a token into two, in the order of scores.
"""

from collections.abc import Sequence
from typing import Any

from bitnet_jit.generation.token_bytes import SPACE

MAX_PIECE = 256  # characters of a token that is split: longer ones are no words of a vocabulary
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of tokens


def sentencepiece_parts(model: dict[str, Any], prefix: bool, first: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return normalizer, model and decoder of a SentencePiece tokenizer.

    Args:
        model: of `bpe_model` or `unigram_model`.
        prefix: whether a space stands before every text.
        first: normalizers that come before.
    """
    steps: list[dict[str, Any]] = [*first, *([{"type": "Prepend", "prepend": SPACE}] if prefix else [])]
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def bpe_model(
    vocabulary: dict[str, int], merges: list[list[str]], unknown: str | None, byte_fallback: bool
) -> dict[str, Any]:
    """Return BPE of characters; those that are no tokens become bytes, or the unknown token."""
    return {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "vocab": vocabulary,
        "merges": merges,
    }


def unigram_model(tokens: Sequence[str], scores: Sequence[float], unknown: int, byte_fallback: bool) -> dict[str, Any]:
    """Return the model that takes the likeliest tokens, whose scores are logarithms of probabilities."""
    vocabulary = [list(pair) for pair in zip(tokens, scores, strict=True)]
    return {"type": "Unigram", "unk_id": unknown, "byte_fallback": byte_fallback, "vocab": vocabulary}


def merges_of(vocabulary: dict[str, int], scores: Sequence[float]) -> list[list[str]]:
    """Return the merges that a vocabulary stands for, the one with the highest score first.

    >>> merges_of({"a": 0, "b": 1, "ab": 2, "aba": 3}, [0.0, 0.0, -1.0, -2.0])
    [['a', 'b'], ['ab', 'a']]
    """
    merges = []
    for token, number in vocabulary.items():
        for place in range(1, min(len(token), MAX_PIECE)):
            left, right = vocabulary.get(token[:place]), vocabulary.get(token[place:])
            if left is not None and right is not None:
                merges.append((-scores[number], left, right, token[:place], token[place:]))
    return [[left, right] for *_, left, right in sorted(merges)]


def added_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    """Return the tokens that are looked for in a text before everything else; all but user-defined ones are special."""
    return [
        added_token(number, token, special=kind != USER_DEFINED)
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def added_token(number: int, content: str, special: bool) -> dict[str, Any]:
    """Return a token that is looked for in a text before everything else."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": special, **flags}


def around(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> dict[str, Any] | None:
    """Return what puts a first and a last token, each with its id, around a text; None where there is neither."""
    given = [token for token in (bos, eos) if token is not None]
    if not given:
        return None
    parts: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if bos is not None:
        parts.insert(0, {"SpecialToken": {"id": bos[0], "type_id": 0}})
    if eos is not None:
        parts.append({"SpecialToken": {"id": eos[0], "type_id": 0}})
    special = {text: {"id": text, "ids": [number], "tokens": [text]} for text, number in given}
    pair = [*parts, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": parts, "pair": pair, "special_tokens": special}
