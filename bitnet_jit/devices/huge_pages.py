"""Tensors in huge pages, of 2 MiB: weights that stream through a CPU's caches come sooner where fewer pages hold them.

Linux gives them to memory of which it is told before it is first written (MADV_HUGEPAGE).
Elsewhere, and where the system refuses, tensors are allocated by torch.
"""

import ctypes
import math
import mmap
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import torch

from bitnet_jit.system.forks import FORKS

HUGE_BYTES = 2**21
CHUNK_BYTES = 2**25  # of a tensor that is mapped alone
SHARED_BYTES = 2**27  # of addresses that others share; the last page of each is half empty on average
MIN_BYTES = 2**18  # of a tensor that is worth a place there
ALIGN = 64
CPU = torch.device("cpu")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@cache
def available(setting: Path = SETTING) -> bool:
    """Return whether the system gives huge pages to memory for which they are asked."""
    try:
        words = setting.read_text()
    except OSError:  # another system, or a sandbox without /sys
        return False
    return hasattr(mmap, "MADV_HUGEPAGE") and ("[madvise]" in words or "[always]" in words)


def map_memory(num_bytes: int) -> mmap.mmap | None:
    """Return memory of at least that size behind its first huge page's beginning; None where the system refuses."""
    try:
        mapped = mmap.mmap(-1, num_bytes + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapped.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a limit on address space, or a kernel without them
        return None
    return mapped


def first_page(mapped: mmap.mmap) -> int:
    """Return the offset at which the first huge page of mapped memory begins."""
    return -ctypes.addressof(ctypes.c_char.from_buffer(mapped)) % HUGE_BYTES


def tensor_at(mapped: mmap.mmap, offset: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor over mapped memory, which stays mapped for as long as the tensor lives."""
    end = offset + math.prod(shape) * dtype.itemsize
    return torch.frombuffer(memoryview(mapped)[offset:end], dtype=dtype).view(*shape)


class HugePages:
    """Memory for tensors on the CPU; each has a storage of its own size, as torch's have.

    Large tensors are mapped alone. Others share chunks, which are unmapped when their last tensor is gone.
    """

    def __init__(self) -> None:
        self._chunk: weakref.ref[mmap.mmap] | None = None
        self._next = 0
        self._renew_lock()
        FORKS.in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = Lock()

    def empty(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device = CPU,
        alone: bool = False,
    ) -> torch.Tensor:
        """Allocate a tensor that is not initialized.

        Args:
            shape: its sizes.
            dtype: its dtype.
            device: where it lives; huge pages are of the CPU.
            alone: share no memory, which tensors that live shortly would keep from being given back.

        >>> HugePages().empty((3, 4), torch.bfloat16).shape
        torch.Size([3, 4])
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        tensor = None
        if device.type == "cpu" and num_bytes >= (CHUNK_BYTES if alone else MIN_BYTES) and available():
            tensor = self._map(num_bytes, shape, dtype)
        return torch.empty(tuple(shape), dtype=dtype, device=device) if tensor is None else tensor

    def _map(self, num_bytes: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """Return a tensor in huge pages, or None where the system has none."""
        if num_bytes >= CHUNK_BYTES:
            mapped = map_memory(num_bytes)
            return None if mapped is None else tensor_at(mapped, first_page(mapped), shape, dtype)
        with self._lock:
            chunk = None if self._chunk is None else self._chunk()
            if chunk is None or self._next + num_bytes > len(chunk):
                chunk = map_memory(SHARED_BYTES)
                if chunk is None:
                    return None
                self._chunk, self._next = weakref.ref(chunk), first_page(chunk)
            place = self._next
            self._next = -(-(place + num_bytes) // ALIGN) * ALIGN
        return tensor_at(chunk, place, shape, dtype)

    def resident(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in huge pages of a plain tensor on the CPU; the tensor itself where there are none for it."""
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor) if available() and self.takes(tensor) else tensor

    def takes(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a plain one on the CPU, and worth a place in huge pages."""
        return tensor.device.type == "cpu" and type(tensor) is torch.Tensor and tensor.nbytes >= MIN_BYTES


HUGE_PAGES = HugePages()
