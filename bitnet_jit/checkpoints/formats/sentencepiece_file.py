"""tokenizer.model, a SentencePiece model in protobuf: read whole, or refused.

No library that we depend on reads it, and a few fields are all that it takes
(https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto). A message is a run of fields: a
varint with number and wire type, then a varint, 8 bytes, a length and so many bytes, or 4 bytes.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jit.checkpoints.formats.tokenizer_json import NORMAL, UNKNOWN
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system.reading import read_file

MAX_FILE = 2**26  # bytes; vocabularies of 256,000 tokens take 4 MB
VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5  # wire types
PIECE, TRAINER, NORMALIZER = 1, 2, 3  # fields of a model
UNIGRAM, BPE = 1, 2  # types of models
TYPES = range(1, 7)  # of pieces


@dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model.

    Attributes:
        tokens, scores, types: of each piece.
        unknown: the id of the unknown piece.
        is_bpe: whether pieces merge by their scores; else the likeliest ones are taken.
        byte_fallback: whether characters that are no pieces become bytes.
        bos_id, eos_id: of the tokens around a text, -1 where there are none.
        charsmap: the compiled normalization of characters, b"" where there is none.
        prefix: whether a space stands before every text.
        strips: whether spaces around a text go, and several become one.
    """

    tokens: list[str]
    scores: list[float]
    types: list[int]
    unknown: int
    is_bpe: bool
    byte_fallback: bool
    bos_id: int
    eos_id: int
    charsmap: bytes
    prefix: bool
    strips: bool


def read_sentencepiece_file(path: Path) -> SentencePiece:
    """Read a tokenizer.model.

    Raises:
        CheckpointError: it cannot be read, is damaged, or is of a kind that we do not run.
    """
    try:
        return parse_model(bytes(read_file(path, MAX_FILE)))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a SentencePiece model, found {error}") from error


def parse_model(content: bytes) -> SentencePiece:
    """Return the model that a file holds. Raise ValueError where it is none, or of a kind that we do not run."""
    pieces: list[tuple[str, float, int]] = []
    parts = {TRAINER: b"", NORMALIZER: b""}
    for number, value in fields_of(content):
        if number == PIECE:
            pieces.append(parse_piece(as_bytes(value), len(pieces)))
        elif number in parts:
            parts[number] += as_bytes(value)  # a message in two parts is their sum
    tokens, types = [text for text, _, _ in pieces], [kind for _, _, kind in pieces]
    if types.count(UNKNOWN) != 1 or len(set(tokens)) != len(tokens):
        raise ValueError(f"{types.count(UNKNOWN)} unknown pieces, {len(tokens) - len(set(tokens))} pieces twice")
    trainer, normalizer = dict(fields_of(parts[TRAINER])), dict(fields_of(parts[NORMALIZER]))
    kind, bos_id, eos_id = (signed(trainer.get(number, usual)) for number, usual in ((3, UNIGRAM), (41, 1), (42, 2)))
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"a model of the type {kind}; expected {UNIGRAM} (unigram) or {BPE} (bpe)")
    if signed(trainer.get(24, 0)) or not signed(normalizer.get(5, 1)):
        raise ValueError("one that writes spaces in another way (treat_whitespace_as_suffix, escape_whitespaces)")
    if not all(-1 <= end < len(tokens) for end in (bos_id, eos_id)):
        raise ValueError(f"the tokens {bos_id} and {eos_id} around a text, of {len(tokens)}")
    return SentencePiece(
        tokens,
        [score for _, score, _ in pieces],
        types,
        unknown=types.index(UNKNOWN),
        is_bpe=kind == BPE,
        byte_fallback=signed(trainer.get(35, 0)) != 0,
        bos_id=bos_id,
        eos_id=eos_id,
        charsmap=as_bytes(normalizer.get(2, b"")),
        prefix=signed(normalizer.get(3, 1)) != 0,
        strips=signed(normalizer.get(4, 1)) != 0,
    )


def parse_piece(content: bytes, place: int) -> tuple[str, float, int]:
    """Return text, score and type of a piece. Raise ValueError where it has none."""
    fields = dict(fields_of(content))
    score, kind = fields.get(2, b"\0" * 4), fields.get(3, NORMAL)
    if not fields.get(1) or not isinstance(score, bytes) or len(score) != 4 or kind not in TYPES:
        raise ValueError(f"piece {place} without a text, a score of 4 bytes and a type from 1 to 6")
    (number,) = struct.unpack("<f", score)
    if not math.isfinite(number):
        raise ValueError(f"piece {place} of the score {number}")
    return as_bytes(fields[1]).decode(), number, kind


def fields_of(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: a whole number, or bytes. Raise ValueError at damage."""
    place = 0
    while place < len(content):
        tag, place = varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = varint(content, place)
            yield number, value
            continue
        if wire == LENGTH:
            size, place = varint(content, place)
        elif wire in (EIGHT, FOUR):
            size = 8 if wire == EIGHT else 4
        else:
            raise ValueError(f"a field of the wire type {wire} at byte {place} of a message")
        if size > len(content) - place:
            raise ValueError(f"a field of {size} bytes at byte {place} of a message of {len(content)}")
        yield number, content[place : place + size]
        place += size


def varint(content: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place, seven bits per byte with the lowest first, and the place behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if place == len(content):
            raise ValueError("its end within a number")
        byte = content[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError(f"a number of more than 64 bits at byte {place} of a message")


def signed(number: Any) -> int:
    """Return a number of 64 bits in two's complement."""
    if not isinstance(number, int):
        raise ValueError("bytes where a number stands")
    return number - 2**64 if number >= 2**63 else number


def as_bytes(value: Any) -> bytes:
    """Return bytes. Raise ValueError where a number stands in their place."""
    if not isinstance(value, bytes):
        raise ValueError(f"the number {value} where a message or a text stands")
    return value
