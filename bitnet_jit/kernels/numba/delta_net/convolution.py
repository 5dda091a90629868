"""The convolution over the last MAX_TAPS tokens, and silu behind it, for LANES columns at a time.

    x = silu(w0 r0 + w1 r1 + w2 r2 + w3 r3)       each step one fused multiply-add, from the oldest token on

Where there are fewer taps, the first weights are zeros, and stand for the rows that they would multiply, too.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.emit import load, splat_constant
from bitnet_jit.kernels.numba.intrinsics.fused import exp, multiply_add
from bitnet_jit.kernels.numba.intrinsics.lanes import FLOATS, LANES
from bitnet_jit.problem import MAX_TAPS


def silu(builder, x: ir.Value) -> ir.Value:
    """Emit x / (1 + exp(-x))."""
    one = splat_constant(FLOATS, 1.0)
    return builder.fdiv(x, builder.fadd(one, exp(builder, builder.fneg(x))))


@intrinsic
def convolve_lanes(typingctx, out, w0, w1, w2, w3, r0, r1, r2, r3):
    """Write silu of the convolution of the columns at addresses r0..r3 by the weights at w0..w3."""

    def codegen(context, builder, signature, args):
        values = [load(builder, address, 0, FLOATS) for address in args]
        weights, rows = values[1 : 1 + MAX_TAPS], values[1 + MAX_TAPS :]
        x = builder.fmul(weights[0], rows[0])
        for weight, row in zip(weights[1:], rows[1:], strict=True):
            x = multiply_add(builder, weight, row, x)
        place = builder.inttoptr(args[0], FLOATS.as_pointer())
        builder.store(silu(builder, x), place, align=4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * (1 + 2 * MAX_TAPS)), codegen


@jit
def convolve(taps, row_bytes, rows, weight, out):
    """Convolve a token: the rows of MAX_TAPS tokens, the last of which is its own, and as many rows of weights."""
    w1, w2, w3 = weight + row_bytes, weight + 2 * row_bytes, weight + 3 * row_bytes
    r0 = rows if taps > 3 else weight
    r1 = rows + row_bytes if taps > 2 else w1
    r2, r3 = rows + 2 * row_bytes, rows + 3 * row_bytes
    for at in range(0, row_bytes, 4 * LANES):
        convolve_lanes(out + at, weight + at, w1 + at, w2 + at, w3 + at, r0 + at, r1 + at, r2 + at, r3 + at)
