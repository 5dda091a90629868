"""What goes into pages of an int8 cache and what is read from them: codes with their scales, and words of codes.

    codes = rint(x * (127 / max|x|)),  scale = max|x| / 127,  of a token's head of keys, values or queries

Every vector is quantized by itself, so a token's codes depend on nothing else.
"""

import numpy as np
from numba import types

from bitnet_jit.kernels.numba.attention.codes import QUAD, ask_lines, interleave, offset_of
from bitnet_jit.kernels.numba.attention.job import key_scales_at, keys_at, value_scales_at, values_at
from bitnet_jit.kernels.numba.attention.panel import LINE
from bitnet_jit.kernels.numba.attention.turning import rotate
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, load_int8, store_float32, store_int8, store_int32
from bitnet_jit.kernels.numba.intrinsics.scalars import F1
from bitnet_jit.kernels.numba.rowwise.quantize import SEGMENT, quantize_group
from bitnet_jit.problem import PAGE

NOTHING = np.int32(0)


@jit
def write_key_codes(spec, job, token, position, count, page, kv_head, scratch):
    """Write the keys of `count` tokens, whose slots in a page follow one another, and their scales."""
    keys, scales, codes = keys_at(spec, job, page, kv_head), key_scales_at(spec, job, page, kv_head), scratch.v
    for i in range(count):
        slot = position % PAGE + i
        first = (token + i) * spec.width + (spec.heads + kv_head) * spec.head_dim
        rotate(spec, job, first, position + i, F1, scratch.k, 1)
        quantize_group(spec.rotated_dtype, scratch.k, 0, spec.head_dim, codes, SEGMENT, scales, slot)
        for d in range(spec.head_dim):
            store_int8(keys, d * PAGE + slot, load_int8(codes, d))


@jit
def write_value_codes(spec, job, token, position, count, page, kv_head):
    """Write the values of `count` tokens, whose slots in a page follow one another, and their scales."""
    values, scales = values_at(spec, job, page, kv_head), value_scales_at(spec, job, page, kv_head)
    for i in range(count):
        slot = position % PAGE + i
        first = (token + i) * spec.width + (spec.heads + spec.kv_heads + kv_head) * spec.head_dim
        quantize_group(
            spec.x_dtype, job.qkv, first, spec.head_dim, values + slot * spec.head_dim, SEGMENT, scales, slot
        )


@jit
def quantize_queries(spec, rows, scratch):
    """Put codes in the place of rotated queries; write what a score is multiplied by, and its excess, of each row."""
    scale = F1 / np.sqrt(np.float32(spec.head_dim))
    for row in range(rows):
        q = scratch.q + 4 * row * spec.head_dim
        total = quantize_group(spec.rotated_dtype, q, 0, spec.head_dim, q, SEGMENT, scratch.scales, row)
        for d in range(spec.head_dim, spec.code_dim):
            store_int8(q, d, NOTHING)
        store_float32(scratch.scales, row, load_float32(scratch.scales, row) * scale)
        store_int32(scratch.excess, row, np.int32(total * offset_of(spec.tall)))


@jit
def word_of_column(spec, column):
    """Return the place of a column's word, as `lane_of` says: in a piece of four registers."""
    piece, rest = column // (QUAD * spec.lanes) * (QUAD * spec.lanes), column % (QUAD * spec.lanes)
    return piece + spec.lanes * (rest % 16 // QUAD) + rest // 16 * QUAD + rest % QUAD


@jit
def pack_keys(spec, panel, keys, out, ahead):
    """Write words of four numbers of each key of a page: (code_dim / 4, PAGE, 4), keys in the order of `lane_of`."""
    whole, columns = spec.head_dim // QUAD * QUAD, QUAD * spec.lanes
    for d in range(0, whole, QUAD):
        ask_lines(panel, ahead + LINE * (d // QUAD), 1)
        for s in range(0, PAGE, columns):
            interleave(panel, keys + d * PAGE + s, PAGE, out + d * PAGE + QUAD * s)
    if whole < spec.head_dim:
        for s in range(PAGE):
            for i in range(QUAD):
                code = load_int8(keys, (whole + i) * PAGE + s) if whole + i < spec.head_dim else NOTHING
                store_int8(out, whole * PAGE + QUAD * word_of_column(spec, s) + i, code)


@jit
def pack_values(spec, panel, values, out, ahead):
    """Write words of four values of each column of a page: (PAGE / 4, stride, 4); zeros beyond head_dim."""
    columns, whole = QUAD * spec.lanes, spec.whole_words
    for s in range(0, PAGE, QUAD):
        ask_lines(panel, ahead + 4 * LINE * (s // QUAD), 4)
        for d in range(0, whole, columns):
            interleave(panel, values + s * spec.head_dim + d, spec.head_dim, out + s * spec.stride + QUAD * d)
        for d in range(whole, spec.stride):
            for i in range(QUAD):
                code = load_int8(values, (s + i) * spec.head_dim + d) if d < spec.head_dim else NOTHING
                store_int8(out, s * spec.stride + types.int64(QUAD * d + i), code)
