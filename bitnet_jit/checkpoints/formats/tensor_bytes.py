"""Tensors out of files: each copied once, into memory of its own on the device where it stays."""

import torch

from bitnet_jit.devices.huge_pages import CPU, HUGE_PAGES
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system.memory import in_words, total_memory
from bitnet_jit.system.stable_file import StableFile


def copy_tensor(
    file: StableFile, name: str, start: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = CPU
) -> torch.Tensor:
    """Copy the bytes of a tensor from a file to a device.

    Args:
        file: the file.
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
        raise error(file, name, f"at most the {in_words(most)} of memory that there are", in_words(num_bytes))
    try:
        tensor = fill_new(file, start, shape, dtype, device)
        file.check_unchanged()
    except (OSError, ValueError) as cause:
        raise error(file, name, "a file that stays as it is", str(cause)) from cause
    except torch.OutOfMemoryError:  # of a GPU
        raise
    except RuntimeError as cause:  # of torch, where memory lacks
        raise error(file, name, "memory for it", f"none ({cause})") from cause
    return tensor


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


def error(file: StableFile, name: str, expected: str, actual: str) -> CheckpointError:
    """Make the error for a tensor of a file."""
    return CheckpointError(f"{file.path}: {name}: expected {expected}, found {actual}")
