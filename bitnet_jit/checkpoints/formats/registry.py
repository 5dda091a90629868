"""The formats that there are: FORMATS are read, WRITERS write."""

from pathlib import Path

from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL
from bitnet_jit.checkpoints.formats.gguf.model import GgufModel
from bitnet_jit.checkpoints.formats.hf_folder import HfFolder
from bitnet_jit.checkpoints.formats.hf_writer import HfWriter
from bitnet_jit.checkpoints.formats.own_writer import OwnWriter
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.writer import Writer
from bitnet_jit.errors import CheckpointError, InvalidInput

FORMATS: tuple[type[Reader], ...] = (GgufModel, HfFolder)  # the first that recognizes a path reads it
WRITERS: dict[str, Writer] = {
    "autobitlinear": HfWriter("autobitlinear", scale_divides=False),
    "bitlinear": HfWriter("bitlinear", scale_divides=True),
    "i2": OwnWriter("i2"),
    "t5": OwnWriter("t5"),
}


def is_recognized(path: Path) -> bool:
    """Return whether a path holds a model of a known format."""
    return any(format.recognizes(path) for format in FORMATS)


def make_reader(path: Path, i2_s: str = USUAL) -> Reader:
    """Return the reader of a model, its description read; I2_S of a GGUF file is read as a variant of i2_s.py.

    Raises:
        CheckpointError: no format recognizes the path, or the model cannot be read.
    """
    reader = format_of(path)(path)
    if isinstance(reader, GgufModel):
        reader.i2_s = i2_s
    return reader


def format_of(path: Path) -> type[Reader]:
    """Return the format that recognizes a path. Raise CheckpointError where none does."""
    for format in FORMATS:
        if format.recognizes(path):
            return format
    raise CheckpointError(f"{path}: expected a model in a known format, found none")


def get_writer(format: str) -> Writer:
    """Return the writer of a format; InvalidInput names the known ones."""
    if format not in WRITERS:
        raise InvalidInput(f"format: expected one of {', '.join(WRITERS)}, got {format!r}")
    return WRITERS[format]
