"""Numba kernels for CPUs: every instruction set by one spelling, and no torch in sight."""

from bitnet_jit.kernels.kernel import Backend
from bitnet_jit.kernels.numba import a16, activations, amx, linear, norm_gradients, rows, weights
from bitnet_jit.kernels.numba.amx_tiles import why_no_amx
from bitnet_jit.kernels.numba.isa import chosen_isa, machine, usable_isas
from bitnet_jit.kernels.numba.layout import LAYOUTS
from bitnet_jit.kernels.numba.object_cache import user_cache


def describe() -> dict[str, str]:
    """What this backend has found on this machine, for people."""
    return {
        "architecture": machine(),
        "instruction set": chosen_isa().name,
        "usable instruction sets": ", ".join(usable_isas()),
        "AMX": why_no_amx() or "used from 3 rows on",
        "compiled kernels": user_cache().place,
    }


BACKEND = Backend(
    name="numba",
    kernels=(
        *amx.KERNELS,
        *linear.KERNELS,
        *a16.KERNELS,
        *rows.KERNELS,
        *norm_gradients.KERNELS,
        *weights.KERNELS,
        *activations.KERNELS,
    ),
    layouts=LAYOUTS,
)
