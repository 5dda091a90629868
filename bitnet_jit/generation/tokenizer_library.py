"""A tokenizer of the `tokenizers` library, made of what a tokenizer.json holds.

The library reads the JSON of a large vocabulary in a second or more. Handed the tokens and merges of a BPE model as
they are, it takes a fifth of that; it reads all other parts, and files that are not quite as it writes them.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Content = Mapping[str, Any]
EMPTY = {"type": "BPE", "vocab": {}, "merges": []}
OPTIONS = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"}
OPTIONS |= {"ignore_merges"}  # of BPE
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def make_library(content: bytes | Content) -> "Tokenizer":
    """Return the tokenizer that the bytes of a tokenizer.json stand for, or what they hold."""
    from tokenizers import Tokenizer

    given = parsed(content) if isinstance(content, bytes) else content
    if given is not None and (pieces := bpe_pieces(given)) is not None:
        with suppress(Exception):  # whatever it is: the library says it of the JSON in its own words
            return assembled(given, *pieces)
    return Tokenizer.from_buffer(content if isinstance(content, bytes) else encoded(content))


def parsed(content: bytes) -> Content | None:
    """Return the object that JSON holds, None where it holds none that we take."""
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def encoded(content: Content) -> bytes:
    """Return JSON."""
    return json.dumps(content, ensure_ascii=False).encode(errors="surrogatepass")


def bpe_pieces(content: Content) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, Any]] | None:
    """Return vocabulary, merges and options of a BPE model; None where it is another, or has what we do not know."""
    model = content.get("model")
    if (
        not isinstance(model, dict)
        or model.get("type") != "BPE"
        or model.keys() - {"type", "vocab", "merges", *OPTIONS}
    ):
        return None
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list) or "version" not in content:
        return None
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        return None
    options = {name: model[name] for name in OPTIONS & model.keys() if model[name] is not None}
    return vocabulary, pairs, options


def assembled(
    content: Content, vocabulary: dict[str, int], merges: list[tuple[str, str]], options: dict[str, Any]
) -> "Tokenizer":
    """Return a tokenizer of a BPE model and the other parts of a tokenizer.json, which the library reads."""
    from tokenizers import AddedToken, Tokenizer, models

    outer = Tokenizer.from_buffer(encoded({**content, "model": EMPTY, "added_tokens": []}))
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(outer, part)) is not None:
            setattr(library, part, value)
    added = content.get("added_tokens") or []
    library.add_tokens([AddedToken(token["content"], **{flag: token[flag] for flag in FLAGS}) for token in added])
    return library
