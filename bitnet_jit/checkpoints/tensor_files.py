"""The safetensors files of a directory, one or several: which tensors there are, each read when it is asked for."""

import reprlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from bitnet_jit.checkpoints.file_names import INDEX, WEIGHTS
from bitnet_jit.checkpoints.formats.fields import Fields, is_there, read_json
from bitnet_jit.checkpoints.formats.safetensors_file import WORDS, SafetensorsFile
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import CheckpointError

FLOAT_WORDS = tuple(WORDS[dtype] for dtype in FLOATS)


@dataclass(frozen=True)
class Entry:
    """The place of a tensor, and its dtype in safetensors' words, such as "BF16", and shape as its file says."""

    file: Path
    source: SafetensorsFile
    dtype: str
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors of a checkpoint directory, which exists; a context manager that closes its files.

    Raises:
        CheckpointError: no safetensors file, a damaged one, or an index that does not fit its files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, Entry] = {}
        self._sources: list[SafetensorsFile] = []
        self._open_files = ExitStack()
        with ExitStack() as opened:
            for file, expected in find_files(directory).items():
                self._add(opened.enter_context(SafetensorsFile(file)), expected)
            self._open_files = opened.pop_all()

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entries.clear()
        self._open_files.close()

    def _add(self, source: SafetensorsFile, expected: list[str]) -> None:
        file = source.path
        self._sources.append(source)
        for name, stored in source.tensors.items():
            if name in self.entries:
                raise CheckpointError(f"{file}: {name}: a second one, the first is in {self.entries[name].file.name}")
            self.entries[name] = Entry(file, source, stored.dtype, stored.shape)
        for name in expected:
            if name not in self.entries or self.entries[name].file != file:
                raise CheckpointError(f"{file}: {name}: expected it here, as {INDEX} says, found no such tensor")

    def require(self, name: str, shape: tuple[int, ...], dtypes: Iterable[str] = FLOAT_WORDS) -> Entry:
        """Return the entry of a tensor that must be there, with this shape and one of these dtypes.

        Raises:
            CheckpointError: it is missing or another; the message names file, tensor, found and expected.
        """
        expected = f"{' or '.join(dtypes)} {shape}"
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.directory}: {name}: expected {expected}, found no such tensor")
        if entry.shape != shape or entry.dtype not in dtypes:
            raise CheckpointError(f"{entry.file}: {name}: expected {expected}, found {entry.dtype} {entry.shape}")
        return entry

    def read(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Copy a tensor into memory of its own on a device; `require` it before.

        Raises:
            CheckpointError: its file has become shorter, or was written to, since it was opened.
        """
        return self.entries[name].source.read(name, device)

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of tensors have been read so far."""
        return sum(source.bytes_read for source in self._sources)

    def metadata(self, name: str) -> dict[str, str]:
        """Return the metadata of the file of a tensor."""
        return self.entries[name].source.metadata

    def place(self, name: str) -> str:
        """Return the file and the name of a tensor, with which errors about it begin."""
        return f"{self.entries[name].file}: {name}"

    def error(self, name: str, expected: str, actual: str) -> CheckpointError:
        """Make the error for a tensor whose contents are wrong."""
        return CheckpointError(f"{self.place(name)}: expected {expected}, found {actual}")


def find_files(directory: Path) -> dict[Path, list[str]]:
    """Return the safetensors files of a directory, each with the tensors that an index, if any, expects in it."""
    if is_there(directory / INDEX):
        return indexed_files(directory / INDEX)
    if is_there(directory / WEIGHTS):
        return {directory / WEIGHTS: []}
    try:
        there = reprlib.repr(sorted(path.name for path in directory.iterdir()))
    except OSError as error:  # a folder that may be entered and not listed
        there = f"neither ({error.strerror})"
    raise CheckpointError(f"{directory}: expected {WEIGHTS} or {INDEX}, found {there} (pickled weights are never read)")


def indexed_files(index: Path) -> dict[Path, list[str]]:
    """Return the files that an index names. A name with a folder in it is refused: it could lead anywhere."""
    weight_map = Fields(read_json(index), str(index)).inner("weight_map")
    if weight_map is None or not weight_map.values:
        raise CheckpointError(f"{index}: weight_map: expected an object that names a file per tensor, found none")
    files: dict[Path, list[str]] = {}
    for name, file in weight_map.values.items():
        if not name.isprintable() or not str(file).isprintable():
            raise CheckpointError(f"{index}: weight_map: expected names that can be printed, found {name!r}: {file!r}")
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file or "\\" in file:
            raise weight_map.refuse(name, "the name of a safetensors file beside the index")
        files.setdefault(index.with_name(file), []).append(name)
    return files
