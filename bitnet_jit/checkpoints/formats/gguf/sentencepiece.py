"""SentencePiece's BPE in the metadata of a GGUF file -> parts of a tokenizer.json."""

from collections.abc import Sequence
from typing import Any

from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.tokenizer_json import bpe_model, merges_of, sentencepiece_parts


def read_sentencepiece(keys: Keys, tokens: Sequence[str]) -> dict[str, Any]:
    """Return normalizer, model and decoder; merges are those of the file, or those that its scores stand for."""
    vocabulary: dict[str, int] = {}
    for number, token in enumerate(tokens):
        vocabulary.setdefault(token, number)
    if keys.has("tokenizer.ggml.merges"):
        merges = [merge.split(" ", 1) for merge in keys.strings("tokenizer.ggml.merges")]
    else:
        merges = merges_of(vocabulary, keys.numbers("tokenizer.ggml.scores", len(tokens), 0.0).tolist())
    unknown = keys.token("tokenizer.ggml.unknown_token_id", len(tokens))
    model = bpe_model(vocabulary, merges, None if unknown is None else tokens[unknown], byte_fallback=True)
    return sentencepiece_parts(model, prefix=keys.flag("tokenizer.ggml.add_space_prefix", True))
