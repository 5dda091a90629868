"""Which path is a model in GGUF: a file by its name or its first bytes, a folder by the files in it."""

import os
from pathlib import Path

from bitnet_jit.checkpoints.file_names import GGUF_PART, INDEX, WEIGHTS
from bitnet_jit.checkpoints.formats.gguf.file import MAGIC
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system.stable_file import StableFile

SUFFIX = ".gguf"


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file, or a folder that holds one and no safetensors."""
    if os.path.isdir(path):  # unlike Path.is_dir it never raises
        names = names_in(path)
        return any(name.endswith(SUFFIX) for name in names) and not {WEIGHTS, INDEX} & set(names)
    return path.suffix.lower() == SUFFIX or begins_as_gguf(path)


def file_of(path: Path) -> Path:
    """Return the file of a path that `is_gguf` has taken. Raise CheckpointError where a folder holds several."""
    if not os.path.isdir(path):
        return path
    files = sorted(name for name in names_in(path) if name.endswith(SUFFIX))
    models = {(match[1], match[3]) if (match := GGUF_PART.fullmatch(name)) else name for name in files}
    if len(models) > 1:
        raise CheckpointError(f"{path}: expected one GGUF file, found {', '.join(files)}: name one of them")
    return path / files[0]


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, none where it cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def begins_as_gguf(path: Path) -> bool:
    """Return whether a path is a regular file that begins as GGUF does."""
    try:
        with StableFile(path) as file:
            return file.read(0, len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False
