"""Copies between the CPU and a GPU beside the GPU's work, on streams of their own; events tell when each has ended.

A copy is beside other work only from and to page-locked memory. Whoever asks for one keeps that memory until the copy
has ended. Memory of the GPU is kept by torch's allocator, which is told of every stream that uses it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Copy(Protocol):
    """A copy that has begun."""

    def query(self) -> bool:
        """Return whether it has ended."""

    def synchronize(self) -> None:
        """Wait in this thread until it has ended."""

    def seconds(self) -> float:
        """Return how long it took; it has ended."""


class Copies(Protocol):
    """What moves tensors to a device and back beside its work. Any thread may use it."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the device for `send` to fill."""

    def send(self, host: torch.Tensor, out: torch.Tensor) -> Copy:
        """Begin to copy page-locked `host` into `out`, which is of `empty`, or a part of it."""

    def use(self, out: torch.Tensor) -> None:
        """Have the work that this thread gives the device from now on wait for all that was sent into `out`."""

    def holds(self, y: torch.Tensor) -> bool:
        """Return whether a tensor lies on the device."""

    def receive(self, y: torch.Tensor, host: torch.Tensor) -> Copy:
        """Begin to copy `y`, contiguous, into page-locked `host`, behind the work that makes it."""


class CudaCopy:
    """A copy between two events of CUDA, or of HIP."""

    def __init__(self, begin: Any, end: Any) -> None:
        self._begin, self._end = begin, end

    def query(self) -> bool:
        """Return whether it has ended."""
        return bool(self._end.query())

    def synchronize(self) -> None:
        """Wait in this thread until it has ended."""
        self._end.synchronize()

    def seconds(self) -> float:
        """Return how long it took; it has ended."""
        return float(self._begin.elapsed_time(self._end)) / 1e3


class CudaCopies:
    """Two streams of a GPU: one for copies to it, one for copies from it, so that both directions go at a time.

    Args:
        device: of torch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._to_device: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._from_device: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the device, which the copying stream may write at once."""
        with torch.cuda.stream(self._to_device):
            return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def send(self, host: torch.Tensor, out: torch.Tensor) -> CudaCopy:
        """Begin to copy page-locked `host` into `out`."""
        return self._copy(host, out, self._to_device)

    def use(self, out: torch.Tensor) -> None:
        """Have this thread's current stream wait for what was sent, and the allocator for that stream."""
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._to_device)
        out.record_stream(current)

    def holds(self, y: torch.Tensor) -> bool:
        """Return whether a tensor lies on the device."""
        return y.device == self.device

    def receive(self, y: torch.Tensor, host: torch.Tensor) -> CudaCopy:
        """Begin to copy `y` into page-locked `host`, behind what this thread's current stream has been given."""
        self._from_device.wait_stream(torch.cuda.current_stream(self.device))
        y.record_stream(self._from_device)
        return self._copy(y, host, self._from_device)

    def _copy(self, source: torch.Tensor, out: torch.Tensor, stream: Any) -> CudaCopy:
        """Begin a copy between two events."""
        begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            begin.record(stream)
            out.copy_(source, non_blocking=True)
            end.record(stream)
        return CudaCopy(begin, end)
