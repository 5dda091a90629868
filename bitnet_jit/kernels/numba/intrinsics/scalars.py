"""Single numbers: constants of the formulas, the smaller and the larger of two, and the bits of a float."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32
from bitnet_jit.problem import EPS

FLOAT_EPS = np.float32(EPS)
F0, F1 = np.float32(0), np.float32(1)


@intrinsic
def float_from_bits(typingctx, bits):
    """Return the float32 with the bits of a uint32."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(args[0], F32)


@intrinsic
def bits_of_float(typingctx, value):
    """Return the bits of a float32 as uint32."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(args[0], I32)


def chooser(comparison: str, doc: str):
    """Return an intrinsic that chooses one of two int64 by a comparison."""

    @intrinsic
    def choose(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.select(builder.icmp_signed(comparison, *args), *args)

        return types.int64(types.int64, types.int64), codegen

    choose.__doc__ = doc
    return choose


least = chooser("<", "Return the smaller of two int64. Numba's min would be a function more to compile.")


most = chooser(">", "Return the larger of two int64.")
