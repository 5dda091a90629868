"""One safetensors file of unknown origin: its header checked as a whole, its tensors copied to where they stay.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's size, the header as JSON, and
the tensors' bytes, one tensor behind the other without gaps.
"""

import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bitnet_jit.checkpoints.formats.tensor_bytes import TensorFile
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.system.reading import parse_json
from bitnet_jit.system.stable_file import StableFile

PREFIX = 8  # bytes that hold the header's size
HEADER_LIMIT = 32 * 2**20  # bytes, a hundred for each of 300,000 tensors
MAX_DIMENSIONS = 64  # of a tensor
# dtypes that a file may have and that are not read here
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6} | dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
WORDS = {dtype: word for word, dtype in DTYPES.items()}
BITS |= {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor: bytes `start` to `stop` of its file; dtype in safetensors' words, such as "BF16"."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile(TensorFile):
    """A safetensors file, open for reading; a context manager that closes it.

    Attributes:
        path: the file.
        tensors: where each tensor lies, by name.
        metadata: of the file, words to words.

    Raises:
        CheckpointError: the file cannot be read, or is no whole safetensors file.

    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> with SafetensorsFile(embedded_model() / "model.safetensors") as file:
    ...     file.read("model.norm.weight").dtype
    torch.float32
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, self._parse, "safetensors")

    def _parse(self, file: StableFile) -> None:
        self.tensors, self.metadata = parse_header(*read_header(file))

    def read(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Copy a tensor into memory of its own on a device; CheckpointError as `TensorFile.copy`."""
        stored = self.tensors[name]
        if stored.dtype not in DTYPES:
            raise self.error(name, f"one of {', '.join(DTYPES)}", stored.dtype)
        return self.copy(name, stored.start, stored.shape, DTYPES[stored.dtype], device)


def read_header(file: StableFile) -> tuple[bytes, int]:
    """Return the header, and the number of bytes that follow it. Raise ValueError where there is no whole one."""
    if file.size < PREFIX:
        raise ValueError(f"{file.size} bytes, fewer than {PREFIX}")
    length, most = int.from_bytes(file.read(0, PREFIX), "little"), min(HEADER_LIMIT, file.size - PREFIX)
    if length > most:
        raise ValueError(f"a header of {length} bytes; expected at most {most}")
    return file.read(PREFIX, length), file.size - PREFIX - length


def parse_header(header: bytes, num_bytes: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return the tensors and the metadata that a header tells of.

    Args:
        header: JSON.
        num_bytes: how many bytes follow it, all of which are some tensor's.

    Raises:
        ValueError: it is no such header, or its tensors do not follow one another without gaps to the end of the file.
    """
    entries = parse_json(header)
    if not isinstance(entries, dict):
        raise ValueError("a header that is no JSON object")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("a __metadata__ that does not map words to words")
    first = PREFIX + len(header)
    tensors = {name: parse_entry(name, entry, first) for name, entry in entries.items()}
    end = first
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != end:
            raise ValueError(f"{name} at byte {stored.start - first}; expected it at byte {end - first}")
        end = stored.stop
    if end - first != num_bytes:
        raise ValueError(f"{num_bytes} bytes of tensors; its header tells of {end - first}")
    return tensors, metadata


def parse_entry(name: str, entry: Any, first: int) -> StoredTensor:
    """Return where a tensor lies, given the place of the first one. Raise ValueError where an entry makes no sense."""
    if not name.isprintable():
        raise ValueError(f"a tensor of the name {reprlib.repr(name)}")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{name} without dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name} of the dtype {reprlib.repr(dtype)}")
    if not are_sizes(shape) or not are_sizes(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name} of the shape {reprlib.repr(shape)} at bytes {reprlib.repr(offsets)}")
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{name}, {dtype} {reprlib.repr(tuple(shape))}, in {offsets[1] - offsets[0]} bytes")
    return StoredTensor(dtype, tuple(shape), first + offsets[0], first + offsets[1])


def are_sizes(value: Any) -> bool:
    """Return whether a value is a list of whole numbers from 0 to the largest that an int64 holds."""
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)
