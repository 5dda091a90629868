"""SentencePiece's BPE in the metadata of a GGUF file -> parts of a tokenizer.json.

A file has a score per token and seldom merges: two tokens merge where their joint text is a token, the token with the
highest score first. So a merge stands for each split of a token into two, in the order of scores.
"""

from collections.abc import Sequence
from typing import Any

from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.generation.token_bytes import SPACE

MAX_PIECE = 256  # characters of a token that is split: longer ones are no words of a vocabulary


def sentencepiece_parts(keys: Keys, tokens: Sequence[str]) -> dict[str, Any]:
    """Return normalizer, model and decoder."""
    vocabulary: dict[str, int] = {}
    for number, token in enumerate(tokens):
        vocabulary.setdefault(token, number)
    if keys.has("tokenizer.ggml.merges"):
        merges = [merge.split(" ", 1) for merge in keys.strings("tokenizer.ggml.merges")]
    else:
        merges = merges_of(vocabulary, keys.numbers("tokenizer.ggml.scores", len(tokens), 0.0).tolist())
    prefix = keys.flag("tokenizer.ggml.add_space_prefix", True)
    unknown = keys.token("tokenizer.ggml.unknown_token_id", len(tokens))
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
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
        "model": {
            "type": "BPE",
            "unk_token": None if unknown is None else tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


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
