"""Numba kernels for CPUs, with one spelling for every instruction set; only `tensors.py` needs torch."""

import os
import sys
from dataclasses import replace
from functools import cache
from typing import Any

from bitnet_jit.kernels.backend import Backend, Call, Offline, Rates
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.packing.layout import Layout
from bitnet_jit.packing.stored import Stored
from bitnet_jit.system.shielded import shielded


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels, the preferred ones of an op first."""
    from bitnet_jit.kernels.numba.attention import paged
    from bitnet_jit.kernels.numba.delta_net import kernel as delta_net
    from bitnet_jit.kernels.numba.head import logits
    from bitnet_jit.kernels.numba.linear import a16, amx, tiled
    from bitnet_jit.kernels.numba.rowwise import dequantize as dequantize_activation
    from bitnet_jit.kernels.numba.rowwise import embedding, hadamard, norm, norm_gradients, packed_embedding
    from bitnet_jit.kernels.numba.weights import dequantize as dequantize_weight
    from bitnet_jit.kernels.numba.weights import quantize as quantize_weight

    linear = (amx, tiled, a16)
    rowwise = (norm, hadamard, norm_gradients, dequantize_activation, embedding, packed_embedding)
    modules = (*linear, *rowwise, quantize_weight, dequantize_weight, logits, paged, delta_net)
    return tuple(kernel for module in modules for kernel in module.KERNELS)


def layouts() -> tuple[Layout, ...]:
    """Return the layouts in which these kernels read weights."""
    from bitnet_jit.kernels.numba.layout import I2_TILES, LAYOUTS

    return tuple(replace(layout, lay=lay) if layout is I2_TILES else layout for layout in LAYOUTS)


def lay(packed: Any, out: Any, in_features: int) -> None:
    """Fill `out` with the tiles of canonical `i2`, on all threads."""
    from bitnet_jit.kernels.numba.weights.lay import lay

    lay(packed, out, in_features, binding().launch_team)


def bind_call(bound: Any, operands: Operands, device: Any) -> Call:
    """Return what runs a bound kernel on torch tensors."""
    call: Call = binding().bind_call(bound, operands)
    return call


@cache
def binding() -> Any:
    """Return `tensors.py`; the pool of threads is compiled when it is imported, which no fork may see the middle of."""
    return shielded(import_binding)


def import_binding() -> Any:
    """Import what binds kernels to torch tensors."""
    from bitnet_jit.kernels.numba import tensors

    return tensors


def decode(stored: Stored, source: Any, out: Any, in_features: int) -> tuple[int, int]:
    """Fill `out` with the canonical codes of `source`, on all threads; return the numbers of codes 1 and of codes 3."""
    from bitnet_jit.kernels.numba.weights.decode import decode

    return decode(stored, source, out, in_features, binding().launch_team)


def compile_only(bound: Any, operands: Operands) -> None:
    """Compile a kernel into the cache of object code."""
    bind_call(bound, operands, None)


def disabled_reason() -> str | None:
    """Return what NUMBA_DISABLE_JIT does, where it is set: Numba then hands back plain Python functions."""
    config = getattr(sys.modules.get("numba"), "config", None)  # it may have been set by hand, too
    value = os.environ.get("NUMBA_DISABLE_JIT", "0") if config is None else config.DISABLE_JIT
    if value in ("", "0", 0):
        return None
    return "NUMBA_DISABLE_JIT is set, so that Numba compiles nothing; unset it before bitnet_jit is used"


def measure_rates(device: Any, threads: int) -> Rates:
    """Measure what the CPU does at most on that many threads."""
    from bitnet_jit.kernels.numba.limits import measure_rates

    return measure_rates(threads)


def describe() -> dict[str, str]:
    """Return what this backend has found on this machine, for people."""
    from bitnet_jit.kernels.numba.compiler.object_cache import user_cache
    from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason
    from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa, machine, usable_isas

    return {
        "architecture": machine(),
        "instruction set": chosen_isa().name,
        "usable instruction sets": ", ".join(usable_isas()),
        "AMX": amx_unsupported_reason() or "used from 3 rows on",
        "compiled kernels": user_cache().place,
        "thread layer": binding().FORK.name,
    }


BACKEND = Backend(
    name="numba",
    packages=("numba",),
    device_types=("cpu",),
    priority=20,
    kernels=kernels,
    layouts=layouts,
    bind_call=bind_call,
    disabled_reason=disabled_reason,
    offline=Offline(lambda device: None, lambda target: None, compile_only),
    measure_rates=measure_rates,
    decode=decode,
    describe=describe,
)
