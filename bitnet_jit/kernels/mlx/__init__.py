"""Kernels on MLX's arrays: Metal's sources on Apple's GPUs, the same as CUDA on NVIDIA's, else MLX's own operations.

Its problems are of the device type "mlx", which torch does not know: `bitnet_jit.mlx` asks for them. Torch tensors on
the CPU are taken, too, and copied.
"""

from typing import Any

from bitnet_jit.kernels.backend import Backend, Call, Rates
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


def measure_rates(device: Any, threads: int) -> Rates:
    """Return what is published of an Apple chip; elsewhere how fast torch reads the machine's memory."""
    from bitnet_jit.devices.mlx import find_gpu
    from bitnet_jit.kernels.metal.peaks import rates_of

    gpu = find_gpu()
    return rates_of(gpu.name if gpu else "", 0, device)


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
    measure_rates=measure_rates,
    describe=describe,
)
