"""Activation quantization of one row: absmax int8 codes, half to even, their scale and their sum.

    x_q = clip(rint(x * (127 / max|x|)), -128, 127),   x_scale = max|x| / 127

The largest magnitude is found among the bits, as unsigned numbers: there infinity and NaN are simply the largest.
"""

import numpy as np

from bitnet_jit.kernels.numba.elements import (
    ROUND,
    ROUND_BITS,
    load_float,
    load_int8,
    store_float32,
    store_int8,
    store_int32,
)
from bitnet_jit.kernels.numba.jit import jit
from bitnet_jit.kernels.numba.simd import bits_of_float, float_from_bits

INFINITY_BITS = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
EPS = np.float32(1e-5)
F127 = np.float32(127)
MAGIC = np.float32(ROUND)


@jit
def absmax_bits(dtype, x, count):
    """Bits of the largest |x| of `count` elements at address x; above those of infinity where one is NaN."""
    largest = np.uint32(0)
    for i in range(count):
        largest = max(largest, bits_of_float(load_float(dtype, x, i)) & MAGNITUDE)
    return largest


@jit
def quantize_row(dtype, x, count, x_q, padded, x_scale, row):
    """`count` elements at address x -> codes at address x_q, zeros up to `padded`; scale `row` of x_scale."""
    bits = absmax_bits(dtype, x, count)
    if bits >= INFINITY_BITS:
        for i in range(padded):
            store_int8(x_q, i, np.int32(0))
        store_float32(x_scale, row, np.float32(np.nan))
        return
    absmax = max(float_from_bits(bits), EPS)
    factor = F127 / absmax
    for i in range(count):
        code = np.int32(bits_of_float(load_float(dtype, x, i) * factor + MAGIC)) - np.int32(ROUND_BITS)
        store_int8(x_q, i, min(max(code, np.int32(-128)), np.int32(127)))
    for i in range(count, padded):
        store_int8(x_q, i, np.int32(0))
    store_float32(x_scale, row, absmax / F127)


@jit
def copy_codes(x, count, x_q, padded):
    """Codes of a row into its padded place."""
    for i in range(count):
        store_int8(x_q, i, load_int8(x, i))
    for i in range(count, padded):
        store_int8(x_q, i, np.int32(0))


@jit
def sum_codes(x_q, count, group_size, x_sum, first):
    """Sums of a row's codes by groups of inputs (the last may be short), into x_sum[first:]."""
    group = 0
    for start in range(0, count, group_size):
        total = np.int32(0)
        for i in range(start, min(start + group_size, count)):
            total += load_int8(x_q, i)
        store_int32(x_sum, first + group, total)
        group += 1
