"""A safetensors file, written tensor by tensor, so that one is held at a time; see `safetensors_file.py` for reading.

Tensors of wider elements lie first, as the safetensors library has them, so that each begins at a multiple of its
element. They are made in another order, and each is written to its place.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bitnet_jit.checkpoints.formats.safetensors_file import PREFIX, WORDS

ALIGNMENT = 8
Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class PlannedTensors:
    """Tensors that are made together.

    Attributes:
        shapes: dtype and shape of each, by its name in the file.
        content: makes them, on the CPU.
    """

    shapes: Shapes
    content: Callable[[], Mapping[str, torch.Tensor]]


def write_tensors(
    file: Path,
    planned: Sequence[PlannedTensors],
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Write a safetensors file.

    Args:
        file: to be written anew.
        planned: all tensors, in the order in which they are made.
        metadata: of the file, words to words.
        progress: called with the number of items of `planned` that are written, and that there are, after each.

    >>> import tempfile
    >>> from safetensors.torch import load_file
    >>> one = PlannedTensors({"a": (torch.uint8, (3,))}, lambda: {"a": torch.ones(3, dtype=torch.uint8)})
    >>> two = PlannedTensors({"b": (torch.float32, (2,))}, lambda: {"b": torch.zeros(2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "file", [one, two], {})
    ...     load_file(Path(folder) / "file")["a"]
    tensor([1, 1, 1], dtype=torch.uint8)
    """
    header, places = header_of({name: of for part in planned for name, of in part.shapes.items()}, metadata)
    with file.open("wb") as opened:
        opened.write(header)
        for number, part in enumerate(planned, 1):
            for name, tensor in part.content().items():
                assert (tensor.dtype, tuple(tensor.shape)) == part.shapes[name], name
                opened.seek(places[name])
                opened.write(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
            progress(number, len(planned))


def header_of(shapes: Shapes, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the first bytes of a file, and the place of each tensor in it."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    starts: dict[str, int] = {}
    end = 0
    for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: -item[1][0].itemsize):
        starts[name] = end
        end += torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": WORDS[dtype], "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text, {name: PREFIX + len(text) + start for name, start in starts.items()}
