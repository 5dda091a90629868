"""The bytes of each token of a tokenizer.json, where tokens have some: in the kinds of GPT-2 and sentencepiece."""

import json
import re
from typing import Any

SPACE = "\u2581"  # as sentencepiece writes it
BYTE = re.compile("<0x([0-9A-F]{2})>")
PLAIN = (
    *range(33, 127),
    *range(161, 173),
    *range(174, 256),
)  # bytes that GPT-2 writes as the character of their number
REST = (byte for byte in range(256) if byte not in PLAIN)
TO_BYTES = {256 + place: chr(byte) for place, byte in enumerate(REST)}  # all others, in order, are those from 256 on

OF_BYTES = {ord(char): number for number, char in TO_BYTES.items()} | {byte: byte for byte in PLAIN}
ALPHABET = frozenset(map(chr, OF_BYTES.values()))  # in which GPT-2 writes tokens


def spell(text: str) -> str:
    """Return a text of GPT-2's tokens as it is; another one written a character per byte, as those are.

    >>> spell("\u0120n"), spell(" n")
    ('Ġn', 'Ġn')
    """
    if ALPHABET.issuperset(text):
        return text
    return "".join(chr(OF_BYTES[byte]) for byte in text.encode())


def token_bytes(library: Any) -> dict[int, bytes] | None:
    """Return the bytes of each token by its id; None where a token's text depends on its neighbours.

    Args:
        library: a `tokenizers.Tokenizer`.
    """
    added = {number: token.content for number, token in library.get_added_tokens_decoder().items()}
    pieces = {number: piece for piece, number in library.get_vocab(with_added_tokens=True).items()}
    steps = decoder_steps(library)
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        result = {number: byte_level(piece) for number, piece in pieces.items()}
    elif kinds & {"Metaspace", "Replace"} and all(map(is_of_sentencepiece, steps)):
        falls_back = "ByteFallback" in kinds
        result = {number: sentencepiece(piece, falls_back) for number, piece in pieces.items()}
    else:
        return None
    return result | {number: content.encode() for number, content in added.items()}


def decoder_steps(library: Any) -> list[dict[str, Any]]:
    """Return what the decoder does, step by step, as its file says it."""
    if library.decoder is None:
        return []
    decoder = json.loads(library.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def is_of_sentencepiece(step: dict[str, Any]) -> bool:
    """Return whether a step leaves each token its own bytes, the spaces at the start of a text apart."""
    if step["type"] == "Replace":
        return step.get("pattern") == {"String": SPACE} and step.get("content") == " "
    return step["type"] in ("ByteFallback", "Fuse", "Strip") or (
        step["type"] == "Metaspace" and step.get("replacement") == SPACE
    )


def byte_level(piece: str) -> bytes:
    """Return the bytes of a token that is written a character per byte.

    >>> byte_level("\u0120né")
    b' n\\xe9'
    """
    text = piece.translate(TO_BYTES)
    return text.encode("latin-1" if max(text, default="") < "\u0100" else "utf-8")


def sentencepiece(piece: str, falls_back: bool) -> bytes:
    """Return the bytes of a token that is written as text, or as <0x0A> where a byte may be one.

    >>> sentencepiece("\u2581né", True), sentencepiece("<0xC3>", True)
    (b' n\\xc3\\xa9', b'\\xc3')
    """
    if falls_back and (match := BYTE.fullmatch(piece)):
        return bytes.fromhex(match[1])
    return piece.replace(SPACE, " ").encode()
