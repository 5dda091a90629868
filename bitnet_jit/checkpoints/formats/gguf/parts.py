"""`GgufParts`: a model's GGUF file, or the files in which it was split, as one.

llama.cpp's `gguf-split` names them `<name>-00001-of-00003.gguf`. The first has the metadata of the model; each says
which it is (`split.no`, from 0) and how many there are (`split.count`).
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from bitnet_jit.checkpoints.file_names import GGUF_PART
from bitnet_jit.checkpoints.formats.gguf.file import GgufFile, GgufTensor
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.errors import CheckpointError

MAX_PARTS = 1000  # open files are few on some machines


class GgufParts:
    """The files of a model, open for reading; a context manager that closes them.

    Attributes:
        path: the file that was asked for.
        metadata: of the first.
        tensors: of all, by name; `unread`: those of types that we do not read, by their types' names.

    Raises:
        CheckpointError: a file is missing, cannot be read, is no whole GGUF file, or belongs to another model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, GgufTensor] = {}
        self.unread: dict[str, str] = {}
        self._files: dict[str, GgufFile] = {}
        self._parts: list[GgufFile] = []
        try:
            for part in parts_of(path):
                self._parts.append(GgufFile(part))
            check_numbers(self._parts)
            for file in self._parts:
                self._add(file)
        except CheckpointError:
            self.close()
            raise
        self.metadata: dict[str, Any] = self._parts[0].metadata

    def __enter__(self) -> "GgufParts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what their headers say stays."""
        for file in self._parts:
            file.close()

    def reopen(self) -> None:
        """Open the files again, their headers being known; CheckpointError where one was written to meanwhile."""
        for file in self._parts:
            file.reopen()

    def _add(self, file: GgufFile) -> None:
        names = file.tensors.keys() | file.unread.keys()
        for name in names & self._files.keys():
            raise CheckpointError(f"{file.path}: {name}: a second one, the first is in {self._files[name].path.name}")
        self.tensors |= file.tensors
        self.unread |= file.unread
        self._files |= dict.fromkeys(names, file)

    def read(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Copy the numbers of a tensor; see `GgufFile.read`."""
        return self._files[name].read(name, device)

    def read_bytes(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Copy the bytes of a tensor; see `GgufFile.read_bytes`."""
        return self._files[name].read_bytes(name, device)

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of tensors have been read so far."""
        return sum(file.bytes_read for file in self._parts)

    def place(self, name: str) -> str:
        """Return the file and the name of a tensor, with which errors about it begin."""
        return f"{self._files[name].path if name in self._files else self.path}: {name}"


def parts_of(path: Path) -> list[Path]:
    """Return the files of a model in their order, by the name of one of them; CheckpointError names a missing one."""
    match = GGUF_PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    if not 1 <= int(match[2]) <= count <= MAX_PARTS:
        raise CheckpointError(f"{path}: expected the name of one of at most {MAX_PARTS} parts, from 1 on")
    files = [path.with_name(f"{match[1]}-{number:05}-of-{count:05}{match[4]}") for number in range(1, count + 1)]
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file}: expected this part of the {count} parts of a model, found no such file")
    return files


def check_numbers(files: list[GgufFile]) -> None:
    """Raise CheckpointError unless files say of themselves what their names say."""
    for place, file in enumerate(files):
        said = file.metadata.get("split.no", 0), file.metadata.get("split.count", 1)
        if said != (place, len(files)) and said != (0, 0):
            raise CheckpointError(
                f"{file.path}: expected part {place} of {len(files)} (split.no, split.count), found {said[0]} of "
                f"{said[1]}; the parts of a model are named as gguf-split names them, -00001-of-00002.gguf"
            )
