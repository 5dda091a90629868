"""`Backend`: a device as a place where batches run. All that differs between devices stands in their records.

A kernel language (`bitnet_jit.kernels`) serves types of devices, and each type (`bitnet_jit.devices`) has a record:
what is said here is read from both. There is no backend for what is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.cuda import CUDA
from bitnet_jit.devices.kind import ADDRESSES
from bitnet_jit.devices.kinds import KINDS, kind_of
from bitnet_jit.devices.mps import MPS
from bitnet_jit.engine.tensors.infer import device_of, infer_batch
from bitnet_jit.engine.tensors.memory_used import memory_used
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry

MLX = "mlx"  # the name of the kernel language of Apple's MLX


@dataclass(frozen=True)
class Memory:
    """The memory of a device.

    Attributes:
        total_bytes: that it has; None where nobody knows.
        used_bytes: of them, in use by all programs; 0 where nobody knows.
        unified: whether it is the CPU's memory: bytes of both are the same ones, to be counted once.
    """

    total_bytes: int | None
    used_bytes: int
    unified: bool = False

    @property
    def free_bytes(self) -> int:
        """Return the bytes that are not in use; what a process can address where nobody knows."""
        return ADDRESSES if self.total_bytes is None else self.total_bytes - self.used_bytes


@dataclass(frozen=True)
class Capabilities:
    """What a device can do.

    Attributes:
        device: the device.
        description: its name and its size, by what they are.
        languages: kernel languages that serve it, the preferred one first.
        refusals: the other ones, and why they do not.
        default_dtype: of activations, where a model does not say.
        captures_graphs: whether steps are launched as graphs.
    """

    device: torch.device
    description: Mapping[str, str]
    languages: tuple[str, ...]
    refusals: Mapping[str, str]
    default_dtype: str
    captures_graphs: bool

    @property
    def has_kernels(self) -> bool:
        """Return whether a language serves it that is not the plain implementation, which unpacks weights each time."""
        return any(not registry.BACKENDS[name].fallback for name in self.languages)


class Backend(Protocol):
    """A device that runs batches.

    Attributes:
        device: the device.
    """

    device: torch.device

    def execute_batch(self, module: nn.Module, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what a module that is on the device makes of each tensor; see `tensors.infer_batch`."""

    def memory_usage(self) -> Memory:
        """Return the device's memory at this moment."""

    def capabilities(self) -> Capabilities:
        """Return what the device can do."""


@dataclass(frozen=True)
class DeviceBackend:
    """A `Backend` by the records of a device: a CPU, an NVIDIA or AMD GPU, an Apple GPU.

    >>> backend = backend_of("cpu")
    >>> [tuple(y.shape) for y in backend.execute_batch(nn.Linear(8, 3), [torch.ones(8), torch.ones(2, 8)])]
    [(3,), (2, 3)]
    >>> backend.capabilities().languages[0], backend.memory_usage().free_bytes > 0
    ('numba', True)
    """

    device: torch.device

    def execute_batch(self, module: nn.Module, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return what a module that is on the device makes of each tensor; see `tensors.infer_batch`.

        Raises:
            InvalidInput: the module is on another device, or as `infer_batch`.
            OutOfMemory: the device has too little memory.
        """
        place = device_of(module) if isinstance(module, nn.Module) else None
        if place is not None and place != self.device:
            raise InvalidInput(f"module: expected one on {self.device}, got one on {place}; move it by .to(device)")
        with kind_of(self.device).current(self.device):
            return infer_batch(module, xs)

    def memory_usage(self) -> Memory:
        """Return the device's memory at this moment."""
        kind = kind_of(self.device)
        total = kind.total_memory(self.device)
        if total == ADDRESSES:
            return Memory(None, 0, kind.unified)
        return Memory(total, int(total * memory_used(self.device)), kind.unified)

    def capabilities(self) -> Capabilities:
        """Return what the device can do."""
        kind, type = kind_of(self.device), self.device.type
        reasons = {one.name: registry.unsupported_reason(one.name, type) for one in registry.in_order()}
        return Capabilities(
            self.device,
            kind.describe(self.device),
            tuple(name for name, reason in reasons.items() if reason is None),
            {name: reason for name, reason in reasons.items() if reason is not None},
            kind.default_dtype,
            kind.capture is not None,
        )


def all_devices() -> list[torch.device]:
    """Return the devices that torch can use here: GPUs first, the CPU last.

    >>> all_devices()[-1]
    device(type='cpu')
    """
    return [check_device(f"{kind.type}:{index}") for kind in KINDS.values() for index in range(kind.count())]


def backend_of(device: torch.device | str) -> DeviceBackend:
    """Return the backend of a device. Raises InvalidInput where torch cannot use it here."""
    return DeviceBackend(check_device(device))


def all_backends() -> list[DeviceBackend]:
    """Return a backend for each device that is here."""
    return [DeviceBackend(device) for device in all_devices()]


def is_cuda_available() -> bool:
    """Return whether torch can use an NVIDIA GPU here, or an AMD GPU, which has the same name there."""
    return CUDA.count() > 0


def is_metal_available() -> bool:
    """Return whether torch can use an Apple GPU here."""
    return MPS.count() > 0


def is_mlx_available() -> bool:
    """Return whether MLX's kernels can be used here: its package is installed. `bitnet_jit.mlx` uses them."""
    return MLX in registry.BACKENDS and registry.absent_reason(MLX) is None
