"""Steps of quantization: from the largest magnitude of a row to its scale and its codes.

Magnitudes are compared by their bits; infinity and NaN are simply the largest.
"""

import triton
import triton.language as tl

from bitnet_jit import problem

EPS = tl.constexpr(problem.EPS)
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, half to even
ROUND_BITS = tl.constexpr(0x4B400000)
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def magnitude(x):
    """Return the bits of |x|, which grow as it does; infinity and NaN are the largest."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def code_scale(bits):
    """Return for a row's largest magnitude whether it is not finite, the factor from x to codes, and x_scale."""
    bad = bits >= INFINITY_BITS
    absmax = tl.where(bad, 1.0, tl.maximum(bits.to(tl.float32, bitcast=True), EPS))
    to_codes = tl.div_rn(tl.full((), 127.0, tl.float32), absmax)
    scale = tl.div_rn(absmax, tl.full((), 127.0, tl.float32))
    return bad, to_codes, tl.where(bad, float("nan"), scale)


@triton.jit
def code_of(x, bad, to_codes):
    """Return the int32 code of x."""
    rounded = tl.where(bad, 0.0, x) * to_codes + ROUND
    return rounded.to(tl.int32, bitcast=True) - ROUND_BITS
