"""The activation quantization of one row: absmax int8 codes, half to even, their scale and their sum.

    x_q = clip(rint(x * (127 / max|x|)), -128, 127),   x_scale = max|x| / 127

The bits of magnitudes are compared as unsigned numbers: so infinity and NaN are simply the largest.
"""

import numpy as np

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.elements import (
    ROUND,
    ROUND_BITS,
    load_float,
    load_int8,
    store_float32,
    store_int8,
    store_int32,
)
from bitnet_jit.kernels.numba.intrinsics.lanes import (
    LANES,
    add_lanes,
    max_lane,
    max_magnitudes,
    quantize_lanes,
    zero_ints,
)
from bitnet_jit.kernels.numba.intrinsics.scalars import FLOAT_EPS, bits_of_float, float_from_bits, least

INFINITY_BITS = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
F127 = np.float32(127)
MAGIC = np.float32(ROUND)
SEGMENT = 64


@jit
def absmax_bits(dtype, x, first, count):
    """Return the bits of the largest |x| of x[first:first + count]; above those of infinity where one is NaN."""
    whole = first + count // LANES * LANES
    lanes = zero_ints()
    for i in range(first, whole, LANES):
        lanes = max_magnitudes(lanes, dtype, x, i)
    largest = max_lane(lanes)
    for i in range(whole, first + count):
        bits = bits_of_float(load_float(dtype, x, i)) & MAGNITUDE
        largest = bits if bits > largest else largest
    return largest


@jit
def quantize_row(dtype, x, count, codes, segments, stride, x_scale, row):
    """Store codes of `count` elements at address x, in segments of 64 that begin `stride` bytes apart.

    Fill up to `segments` with zeros, write scale `row` of x_scale and return the sum of the codes.
    """
    bits = absmax_bits(dtype, x, 0, count)
    total = np.int32(0)
    if bits >= INFINITY_BITS:
        clear_segments(codes, 0, segments, stride)
        for i in range(segments * SEGMENT, count):  # a row without padding ends in a part of a segment
            store_int8(codes, i, np.int32(0))
        store_float32(x_scale, row, np.float32(np.nan))
        return total
    absmax = float_from_bits(bits)
    absmax = absmax if absmax > FLOAT_EPS else FLOAT_EPS
    factor = F127 / absmax
    store_float32(x_scale, row, absmax / F127)
    whole = count // SEGMENT
    for s in range(whole):
        total += quantize_segment(dtype, x, s * SEGMENT, SEGMENT, factor, codes + s * stride)
    clear_segments(codes, whole, segments, stride)
    if whole * SEGMENT < count:
        total += quantize_segment(dtype, x, whole * SEGMENT, count - whole * SEGMENT, factor, codes + whole * stride)
    return total


@jit
def quantize_segment(dtype, x, first, count, factor, codes):
    """Store codes of x[first:first + count] at address codes; return their sum."""
    whole = count // LANES * LANES
    lanes = zero_ints()
    for i in range(0, whole, LANES):
        lanes = quantize_lanes(lanes, dtype, x, first + i, factor, codes + i)
    total = add_lanes(lanes)
    for i in range(whole, count):
        bits = np.int32(bits_of_float(load_float(dtype, x, first + i) * factor + MAGIC))
        store_int8(codes, i, bits)
        total += bits
    return np.int32(total - count * ROUND_BITS)


@jit
def copy_row(dtype, x, count, codes, segments, stride, x_scale, row):
    """Copy given codes into their segments, as `quantize_row`, but their scale is given too; return their sum."""
    total = np.int32(0)
    whole = count // SEGMENT
    for s in range(whole):
        total += copy_segment(x + s * SEGMENT, SEGMENT, codes + s * stride)
    clear_segments(codes, whole, segments, stride)
    if whole * SEGMENT < count:
        total += copy_segment(x + whole * SEGMENT, count - whole * SEGMENT, codes + whole * stride)
    return total


@jit
def copy_segment(x, count, codes):
    """Copy codes; return their sum."""
    total = np.int32(0)
    for i in range(count):
        code = load_int8(x, i)
        store_int8(codes, i, code)
        total += code
    return total


@jit
def clear_segments(codes, first, last, stride):
    """Write zeros into segments first..last-1."""
    for s in range(first, last):
        for i in range(SEGMENT):
            store_int8(codes + s * stride, i, np.int32(0))


@jit
def place_of(codes, stride, i):
    """Return the address of code i in segments of 64 that begin `stride` bytes apart."""
    return codes + i // SEGMENT * stride + i % SEGMENT


@jit
def end_of_piece(stride, i, end):
    """Return where codes from number i on that lie one behind the other end, `end` at most."""
    return end if stride == SEGMENT else least(end, (i // SEGMENT + 1) * SEGMENT)


@jit
def sum_groups(codes, stride, count, group_size, x_sum, first):
    """Sum a row's codes (in segments) by groups of inputs, the last maybe short, into -x_sum[first:]."""
    for group in range((count + group_size - 1) // group_size):
        i, end = group * group_size, least((group + 1) * group_size, count)
        total = np.int32(0)
        while i < end:
            stop, piece = end_of_piece(stride, i, end), place_of(codes, stride, i)
            for j in range(stop - i):
                total += load_int8(piece, j)
            i = stop
        store_int32(x_sum, first + group, np.int32(-total))


@jit
def quantize_groups(dtype, x, count, group_size, codes, stride, x_scale, x_sum, first):
    """Quantize groups of inputs, the last maybe short, each as `quantize_row` does a row, into segments.

    Where segments lie apart, groups are whole ones. Scales go into x_scale[first:], negative sums into x_sum[first:].
    """
    for group in range((count + group_size - 1) // group_size):
        begin = group * group_size
        inputs, place = least(group_size, count - begin), place_of(codes, stride, begin)
        total = quantize_group(dtype, x, begin, inputs, place, stride, x_scale, first + group)
        store_int32(x_sum, first + group, np.int32(-total))


@jit
def quantize_group(dtype, x, begin, count, codes, stride, x_scale, place):
    """Store codes of x[begin:begin + count] in segments, scale `place` of x_scale, and return the sum of the codes."""
    bits = absmax_bits(dtype, x, begin, count)
    total = np.int32(0)
    if bits >= INFINITY_BITS:
        for i in range(count):
            store_int8(place_of(codes, stride, i), 0, np.int32(0))
        store_float32(x_scale, place, np.float32(np.nan))
        return total
    absmax = float_from_bits(bits)
    absmax = absmax if absmax > FLOAT_EPS else FLOAT_EPS
    store_float32(x_scale, place, absmax / F127)
    i = 0
    while i < count:
        stop = end_of_piece(stride, i, count)
        total += quantize_segment(dtype, x, begin + i, stop - i, F127 / absmax, place_of(codes, stride, i))
        i = stop
    return total
