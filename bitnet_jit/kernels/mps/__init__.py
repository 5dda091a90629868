"""Metal's kernels on torch's "mps" tensors, by `torch.mps.compile_shader`: nothing crosses to another library."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bitnet_jit.kernels.backend import Backend, Call, Rates
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.packing.layout import Layout

OLDEST = (2, 7)  # torch whose shaders take lists of whole numbers


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels, the preferred ones of an op first."""
    from bitnet_jit.kernels.metal.table import kernels, writing_kernels

    return (*kernels("mps"), *writing_kernels("mps"))


def layouts() -> tuple[Layout, ...]:
    """Return the layouts in which these kernels read weights."""
    from bitnet_jit.kernels.metal.layout import LAYOUTS

    return LAYOUTS


def bind_call(bound: Any, operands: Operands, device: Any) -> Call:
    """Return what runs a bound kernel on torch tensors."""
    from bitnet_jit.kernels.mps.tensors import bind_call

    return bind_call(bound, operands, device)


def measure_rates(device: Any, threads: int) -> Rates:
    """Return what is published of the chip; of one that is not known, how fast torch reads its memory."""
    from bitnet_jit.devices.mps import find_gpu
    from bitnet_jit.kernels.metal.peaks import rates_of

    gpu = find_gpu(device)
    return rates_of(gpu.name, gpu.multiprocessors, device)


def disabled_reason() -> str | None:
    """Return what is missing in an old torch, or None. Imports nothing."""
    try:
        here = version("torch")
    except PackageNotFoundError:
        return None  # said of every backend whose package is absent
    if tuple(map(int, here.split("+")[0].split(".")[:2])) >= OLDEST:
        return None
    return f"needs torch {OLDEST[0]}.{OLDEST[1]} or newer for torch.mps.compile_shader, got {here}; upgrade torch"


BACKEND = Backend(
    name="mps",
    packages=("torch",),
    device_types=("mps",),
    priority=10,
    kernels=kernels,
    layouts=layouts,
    layouts_need_package=False,
    bind_call=bind_call,
    disabled_reason=disabled_reason,
    measure_rates=measure_rates,
)
