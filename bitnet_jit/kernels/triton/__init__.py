"""Triton kernels for NVIDIA and AMD GPUs.

`layout.py` can be imported without Triton, by those who read on one machine what was laid on another.
"""

from typing import Any

from bitnet_jit.kernels.backend import Backend, Call, Offline, Rates
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.packing.layout import Layout
from bitnet_jit.system.shielded import shielded


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels, the preferred ones of an op first."""
    from bitnet_jit.kernels.triton.attention import paged
    from bitnet_jit.kernels.triton.delta_net import delta_rule
    from bitnet_jit.kernels.triton.head import floats, greedy, int8
    from bitnet_jit.kernels.triton.linear import table as linear
    from bitnet_jit.kernels.triton.rowwise import embedding, hadamard, norm_gradients, packed_embedding, rows
    from bitnet_jit.kernels.triton.weights import dequantize, quantize_weight

    rowwise = (rows, hadamard, norm_gradients, embedding, packed_embedding)
    modules = (linear, *rowwise, quantize_weight, dequantize, paged, delta_rule, floats, int8, greedy)
    return tuple(kernel for module in modules for kernel in module.KERNELS)


def layouts() -> tuple[Layout, ...]:
    """Return the layouts in which these kernels read weights."""
    from bitnet_jit.kernels.triton.layout import LAYOUTS

    return LAYOUTS


def training_layout() -> Layout:
    """Return the layout that kernels for many rows read fastest."""
    from bitnet_jit.kernels.triton.layout import I2_CHUNKS

    return I2_CHUNKS


def bind_call(bound: Any, operands: Operands, device: Any) -> Call:
    """Return what runs a bound kernel on torch tensors."""
    from bitnet_jit.kernels.triton.tensors import bind_call

    return bind_call(bound, operands, device)


def get_ready() -> None:
    """Import the kernels, and have Triton do what it does before the first of them."""
    shielded(kernels)
    from bitnet_jit.kernels.triton.device.early import hash_compiler

    hash_compiler()


def target(device: Any) -> Any:
    """Return what Triton compiles for on a device."""
    from bitnet_jit.kernels.triton.device.offline import target_of

    return target_of(device)


def prepare(target: Any) -> None:
    """Make this process compile for a target, and launch nothing."""
    from bitnet_jit.kernels.triton.device.offline import compile_for

    compile_for(target)


def compile_only(bound: Any, operands: Operands) -> None:
    """Compile what `bind_call` would, into Triton's cache on disk, and load nothing."""
    from bitnet_jit.kernels.triton.tensors import compile_only

    compile_only(bound, operands)


def measure_rates(device: Any, threads: int) -> Rates:
    """Measure what a GPU does at most."""
    from bitnet_jit.kernels.triton.limits import measure_rates

    return measure_rates(device)


BACKEND = Backend(
    name="triton",
    packages=("triton",),
    device_types=("cuda",),
    priority=10,
    kernels=kernels,
    layouts=layouts,
    layouts_need_package=False,
    training_layout=training_layout,
    bind_call=bind_call,
    get_ready=get_ready,
    offline=Offline(target, prepare, compile_only),
    measure_rates=measure_rates,
)
