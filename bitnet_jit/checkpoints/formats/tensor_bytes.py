"""`TensorFile`: what files of tensors have in common; a tensor is copied once, to the device where it stays."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from bitnet_jit.devices.huge_pages import CPU, HUGE_PAGES
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system.memory import in_words, total_memory
from bitnet_jit.system.stable_file import StableFile


class TensorFile:
    """A file with tensors, open for reading; a context manager that closes it.

    Args:
        path: the file.
        parse: reads its header; a ValueError says that there is no whole one.
        kind: of file, for that error.

    Attributes:
        path: as above.
        bytes_read: of tensors, so far.

    Raises:
        CheckpointError: the file cannot be read, or is no whole one of its kind.
    """

    def __init__(self, path: Path, parse: Callable[[StableFile], None], kind: str) -> None:
        self.path, self.bytes_read = path, 0
        try:
            self._file = StableFile(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            parse(self._file)
        except (OSError, ValueError) as error:
            self.close()
            raise CheckpointError(f"{path}: expected a whole {kind} file, found: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reopen(self) -> None:
        """Open the file again, its header being known; CheckpointError where it cannot be, or was written to."""
        try:
            self._file.reopen()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: expected a file that stays as it is, found: {error}") from error

    def close(self) -> None:
        """Close the file; tensors that were read stay."""
        self._file.close()

    def copy(
        self, name: str, start: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = CPU
    ) -> torch.Tensor:
        """Copy the bytes of a tensor to a device.

        Args:
            name: of the tensor, for errors.
            start: its first byte.
            shape, dtype: of the result, contiguous.
            device: where it is to lie.

        Raises:
            CheckpointError: it cannot be read, its file was written to since it was opened, or it is larger than this
                machine's memory.
        """
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        if num_bytes > (most := total_memory()):
            raise self.error(name, f"at most the {in_words(most)} of memory that there are", in_words(num_bytes))
        try:
            tensor = fill_new(self._file, start, shape, dtype, device)
            self._file.check_unchanged()
        except (OSError, ValueError) as cause:
            raise self.error(name, "a file that stays as it is", str(cause)) from cause
        except torch.OutOfMemoryError:  # of a GPU
            raise
        except RuntimeError as cause:  # of torch, where memory lacks
            raise self.error(name, "memory for it", f"none ({cause})") from cause
        self.bytes_read += num_bytes
        return tensor

    def error(self, name: str, expected: str, actual: str) -> CheckpointError:
        """Make the error for a tensor of the file."""
        return CheckpointError(f"{self.path}: {name}: expected {expected}, found {actual}")


def fill_new(
    file: StableFile, start: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return a new tensor filled from a file, by way of the CPU where the device has no way of its own."""
    upload = kind_of(device).upload
    tensor = HUGE_PAGES.empty(shape, dtype, device if upload else CPU, alone=True)
    if not tensor.numel():
        return tensor.to(device)
    if upload:
        upload(tensor, lambda buffer, offset: file.fill(buffer, start + offset))
        return tensor
    file.fill(tensor.view(-1).view(torch.uint8).numpy().data, start)
    return tensor.to(device)
