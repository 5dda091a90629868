"""The table of types of devices: the one place that knows which there are. A new one is a record and a name here."""

from functools import cache
from typing import TYPE_CHECKING

from bitnet_jit.devices.cpu import CPU
from bitnet_jit.devices.cuda import CUDA
from bitnet_jit.devices.kind import DeviceKind
from bitnet_jit.devices.mlx import MLX
from bitnet_jit.devices.mps import MPS
from bitnet_jit.problem import Gpu

if TYPE_CHECKING:
    import torch

KINDS = {kind.type: kind for kind in (CUDA, MPS, MLX, CPU)}  # the one to be preferred first


def kind_of(device: "torch.device") -> DeviceKind:
    """Return the record of a device's type; of a type that is not known, one that claims nothing."""
    return kind_named(device.type)


def kind_named(type: str) -> DeviceKind:
    """Return the record of a type of device, by torch's word for it."""
    return KINDS.get(type) or DeviceKind(type)


@cache
def fingerprint(device: "torch.device") -> str:
    """Return a name for a device that tells it from every other kind.

    It names a CPU's model, the features that kernels choose by, and its cores; or a GPU's name, architecture,
    multiprocessors and the version of its driver.
    """
    return kind_of(device).name(device)


def find_gpu(device: "torch.device") -> Gpu | None:
    """Return what kernels may know of a GPU; None for every other device."""
    return kind_of(device).gpu(device)


def available_types() -> list[str]:
    """Return torch's words for the types of devices that it can use here, the CPU's first."""
    return [kind.type for kind in reversed(KINDS.values()) if kind.count()]


def default_type() -> str:
    """Return the type of device on which models run where nobody says: the first GPU, else the CPU."""
    return next(kind.type for kind in (CUDA, CPU) if kind.count())
