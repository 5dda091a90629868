"""Numba kernels for CPUs: every instruction set by one spelling, and no torch in sight."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.numba.compiler.object_cache import user_cache
from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa, machine, usable_isas
from bitnet_jit.kernels.numba.layout import LAYOUTS
from bitnet_jit.kernels.numba.linear import a16, amx, tiled
from bitnet_jit.kernels.numba.rowwise import dequantize as dequantize_activation
from bitnet_jit.kernels.numba.rowwise import norm, norm_gradients
from bitnet_jit.kernels.numba.weights import dequantize as dequantize_weight
from bitnet_jit.kernels.numba.weights import quantize as quantize_weight


def describe() -> dict[str, str]:
    """Return what this backend finds on this machine, for people."""
    return {
        "architecture": machine(),
        "instruction set": chosen_isa().name,
        "usable instruction sets": ", ".join(usable_isas()),
        "AMX": amx_unsupported_reason() or "used from 3 rows on",
        "compiled kernels": user_cache().place,
    }


BACKEND = Backend(
    name="numba",
    kernels=(
        *amx.KERNELS,
        *tiled.KERNELS,
        *a16.KERNELS,
        *norm.KERNELS,
        *norm_gradients.KERNELS,
        *quantize_weight.KERNELS,
        *dequantize_weight.KERNELS,
        *dequantize_activation.KERNELS,
    ),
    layouts=LAYOUTS,
)
