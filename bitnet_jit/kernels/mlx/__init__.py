"""Kernels on MLX's arrays: Metal's sources on Apple's GPUs, the same as CUDA on NVIDIA's, else MLX's own operations.

Its problems are of the device type "mlx", which torch does not know: `bitnet_jit.mlx` asks for them. Torch tensors on
the CPU are taken, too, and copied.
"""

from typing import Any

from bitnet_jit.kernels.backend import Backend, Call
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.packing.layout import Layout

NAME = "mlx"


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels, the preferred ones of an op first."""
    from bitnet_jit.kernels.mlx import metal, plain, quantized

    return (*metal.KERNELS, *quantized.KERNELS, *plain.KERNELS)


def layouts() -> tuple[Layout, ...]:
    """Return the layouts in which these kernels read weights."""
    from bitnet_jit.kernels.metal.layout import LAYOUTS

    return LAYOUTS


def bind_call(bound: Any, operands: Operands, device: Any) -> Call:
    """Return what runs a bound kernel on MLX's arrays, or on torch tensors on the CPU."""
    from bitnet_jit.kernels.mlx.tensors import bind_call

    return bind_call(bound, operands)


def describe() -> dict[str, str]:
    """Return what MLX runs on, for people."""
    from bitnet_jit.kernels.mlx.language import describe

    return describe()


BACKEND = Backend(
    name=NAME,
    packages=("mlx",),
    device_types=("mlx",),
    priority=10,
    kernels=kernels,
    layouts=layouts,
    layouts_need_package=False,
    bind_call=bind_call,
    describe=describe,
)
