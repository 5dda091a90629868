"""`GgufFile`: one GGUF file of unknown origin, its header checked as a whole, its tensors copied to where they stay.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", u32 version, u64 count of tensors, u64
count of keys; per key a string and a value; per tensor its name, dimensions (fastest first), type and offset; padding
to `general.alignment`; and the tensors' bytes. Little endian.
"""

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bitnet_jit.checkpoints.formats.gguf.q2_0 import Q2_0_SIZES, dialect_of
from bitnet_jit.checkpoints.formats.gguf.tensor_type import TensorType
from bitnet_jit.checkpoints.formats.gguf.types import OTHERS, Q2_0_ID, TYPES
from bitnet_jit.checkpoints.formats.gguf.values import Cursor
from bitnet_jit.checkpoints.formats.tensor_bytes import TensorFile
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.system.stable_file import StableFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_DIMENSIONS = 4
MIN_INFO, MIN_PAIR = 24, 13  # bytes of the header for a tensor, and for a key, at least


@dataclass(frozen=True)
class Info:
    """What a header says of a tensor.

    Attributes:
        shape: rows first.
        type_id: of its type.
        start: its first byte in the file.
    """

    shape: tuple[int, ...]
    type_id: int
    start: int


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file, in a type that we read: its shape, rows first, and its first byte."""

    shape: tuple[int, ...]
    type: TensorType
    start: int


class GgufFile(TensorFile):
    """A GGUF file, open for reading; a context manager that closes it.

    Attributes:
        path: the file.
        metadata: its keys and values; arrays are `Strings` or NumPy arrays.
        tensors: by name; those of types that we do not read are in `unread` instead, by their types' names.

    Raises:
        CheckpointError: the file cannot be read, or is no whole GGUF file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, self._parse, "GGUF")

    def _parse(self, file: StableFile) -> None:
        self.metadata, infos = read_header(file)
        types = types_of(infos, file.size, alignment_of(self.metadata))
        self.unread = {name: name_of(info.type_id) for name, info in infos.items() if name not in types}
        self.tensors = {name: GgufTensor(infos[name].shape, of, infos[name].start) for name, of in types.items()}
        check_places(infos, self.tensors, file.size)

    def read(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Copy the numbers of a tensor onto a device; CheckpointError where they are not F32, F16 or BF16."""
        tensor = self.tensors[name]
        if tensor.type.dtype is None:
            raise self.error(name, "F32, F16 or BF16", tensor.type.name)
        return self.copy(name, tensor.start, tensor.shape, tensor.type.dtype, device)

    def read_bytes(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Copy the bytes of a tensor, uint8 (bytes,), onto a device."""
        tensor = self.tensors[name]
        size = tensor.type.size(math.prod(tensor.shape))
        return self.copy(name, tensor.start, (size,), torch.uint8, device)


def read_header(file: StableFile) -> tuple[dict[str, Any], dict[str, Info]]:
    """Return the metadata of a file, and what it says of its tensors. Raise ValueError where it makes no sense."""
    cursor = Cursor(file)
    if (magic := cursor.take(4)) != MAGIC:
        raise ValueError(f"the first bytes {magic!r}; expected {MAGIC!r}")
    version = cursor.number("I")
    if version not in VERSIONS:
        big = ": a file for big-endian machines?" if version & 0xFFFF == 0 else ""
        raise ValueError(f"version {version}; expected 2 or 3{big}")
    num_tensors, num_pairs = cursor.number("Q"), cursor.number("Q")
    if num_tensors * MIN_INFO + num_pairs * MIN_PAIR > file.size:
        raise ValueError(f"{num_tensors} tensors and {num_pairs} keys in {file.size} bytes")
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = new_name(cursor, metadata)
        metadata[key] = cursor.value()
    infos: dict[str, Info] = {}
    for _ in range(num_tensors):
        name = new_name(cursor, infos)
        infos[name] = read_info(cursor, name)
    alignment = alignment_of(metadata)
    first = -(-cursor.place // alignment) * alignment
    return metadata, {name: placed(name, info, first, alignment) for name, info in infos.items()}


def new_name(cursor: Cursor, known: dict[str, Any]) -> str:
    """Read a name that is not known yet, and can be printed."""
    name = cursor.string()
    if not name or not name.isprintable() or name in known:
        raise ValueError(f"the name {reprlib.repr(name)} {'twice' if name in known else 'of a key or a tensor'}")
    return name


def read_info(cursor: Cursor, name: str) -> Info:
    """Read what a header says of a tensor; its start still counts from the first tensor's."""
    count = cursor.number("I")
    if not 1 <= count <= MAX_DIMENSIONS:
        raise ValueError(f"{name} of {count} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(count))[::-1]
    if not all(shape):
        raise ValueError(f"{name} of the shape {shape}")
    return Info(shape, cursor.number("I"), cursor.number("Q"))


def placed(name: str, info: Info, first: int, alignment: int) -> Info:
    """Return what a header says of a tensor, its start counted from the file's first byte."""
    if info.start % alignment:
        raise ValueError(f"{name} at byte {info.start}, which is no multiple of {alignment}")
    return Info(info.shape, info.type_id, first + info.start)


def alignment_of(metadata: dict[str, Any]) -> int:
    """Return the number of bytes at whose multiples tensors begin."""
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 2**20:
        raise ValueError(f"general.alignment {reprlib.repr(alignment)}; expected a power of two")
    return alignment


def types_of(infos: dict[str, Info], size: int, alignment: int) -> dict[str, TensorType]:
    """Return the types of the tensors whose types we read, one of the two dialects for Q2_0."""
    types = dict(TYPES)
    if any(info.type_id == Q2_0_ID for info in infos.values()):
        rooms = {name: (math.prod(info.shape), room) for name, info, room in with_rooms(infos, size)}
        of_q2_0 = {name: rooms[name] for name, info in infos.items() if info.type_id == Q2_0_ID}
        types[Q2_0_ID] = Q2_0_SIZES[dialect_of(of_q2_0, alignment)]
    return {name: types[info.type_id] for name, info in infos.items() if info.type_id in types}


def with_rooms(infos: dict[str, Info], size: int) -> Iterator[tuple[str, Info, int]]:
    """Yield each tensor, and the bytes from its first one to the next tensor's, or to the end of the file."""
    ordered = sorted(infos.items(), key=lambda item: item[1].start)
    ends = [*(info.start for _, info in ordered), size][1:]
    for (name, info), end in zip(ordered, ends, strict=True):
        yield name, info, end - info.start


def check_places(infos: dict[str, Info], tensors: dict[str, GgufTensor], size: int) -> None:
    """Raise ValueError unless every tensor has whole blocks, and room for them before the next tensor."""
    for name, _, room in with_rooms(infos, size):
        if (tensor := tensors.get(name)) is None:
            continue
        of = tensor.type
        if tensor.shape[-1] % of.block:
            raise ValueError(f"{name}, {of.name}, of {tensor.shape[-1]} inputs; expected a multiple of {of.block}")
        needed = of.size(math.prod(tensor.shape))
        if needed > room:
            raise ValueError(f"{name}, {of.name} {tensor.shape}, in {room} bytes; expected {needed}")


def name_of(type_id: int) -> str:
    """Return the name of a type that is not read."""
    return OTHERS.get(type_id, f"type {type_id}")
