"""A GGUF file, written: its header first, then tensor by tensor, so that one is held at a time."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from bitnet_jit.checkpoints.formats.gguf.file import ALIGNMENT, MAGIC
from bitnet_jit.checkpoints.formats.gguf.values import ARRAY, BOOL, NUMBERS, STRING

VERSION = 3
UINT32, INT32, FLOAT32, UINT64 = 4, 5, 6, 10


@dataclass(frozen=True)
class Planned:
    """A tensor to be written.

    Attributes:
        name: in the file.
        type_id: of its type.
        shape: rows first.
        num_bytes: of its content.
        content: makes it, uint8 (num_bytes,) on the CPU.
    """

    name: str
    type_id: int
    shape: tuple[int, ...]
    num_bytes: int
    content: Callable[[], torch.Tensor]


def write_file(
    file: BinaryIO,
    metadata: Mapping[str, Any],
    tensors: Sequence[Planned],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Write a GGUF file of version 3.

    Args:
        file: opened for writing.
        metadata: flags, whole numbers, floats, strings, and lists of one of them.
        tensors: in their order.
        progress: called with the number of tensors that are written, and that there are, after each.
    """
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, given in metadata.items():
        kind = kind_of(given)
        head += string(key) + struct.pack("<I", kind) + value(given, kind)
    place = 0
    for tensor in tensors:
        head += string(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.type_id, place)
        place += padded(tensor.num_bytes)
    file.write(head + bytes(padded(len(head)) - len(head)))
    for number, tensor in enumerate(tensors, 1):
        content = tensor.content()
        assert content.numel() == tensor.num_bytes, tensor.name
        file.write(content.contiguous().numpy().data)
        file.write(bytes(padded(tensor.num_bytes) - tensor.num_bytes))
        progress(number, len(tensors))


def padded(count: int) -> int:
    """Return a number of bytes, or the next one at which a tensor may begin."""
    return -(-count // ALIGNMENT) * ALIGNMENT


def string(text: str) -> bytes:
    """Return a string as the format has it."""
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def kind_of(given: Any) -> int:
    """Return the type of a value."""
    if isinstance(given, bool):
        return BOOL
    if isinstance(given, int):
        if given < 0:
            return INT32
        return UINT32 if 0 <= given < 2**32 else UINT64
    if isinstance(given, float):
        return FLOAT32
    return STRING if isinstance(given, str) else ARRAY


def value(given: Any, kind: int) -> bytes:
    """Return a value of a type, without the type."""
    if kind == STRING:
        return string(given)
    if kind == ARRAY:
        of = kind_of(given[0]) if given else STRING
        of = INT32 if of == UINT32 else of  # as llama.cpp's own converters write types of tokens
        return struct.pack("<IQ", of, len(given)) + b"".join(value(item, of) for item in given)
    return struct.pack(f"<{NUMBERS[kind]}", given)
