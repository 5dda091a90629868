"""A page of an int8 cache: exact sums of codes for scores, weights in two digits, exact sums of values.

Sums are whole numbers, so that many rows and few give the same bits by any tiles.
"""

from bitnet_jit.kernels.numba.attention.code_pages import pack_keys, pack_values
from bitnet_jit.kernels.numba.attention.code_softmax import soften_codes
from bitnet_jit.kernels.numba.attention.codes import (
    QUAD,
    ask_scales,
    multiply_keys,
    multiply_values,
)
from bitnet_jit.kernels.numba.attention.job import key_scales_at, keys_at, page_of, value_scales_at, values_at
from bitnet_jit.kernels.numba.attention.panel import join_sums, store_sums
from bitnet_jit.kernels.numba.attention.rows import (
    ROW_BYTES,
    first_row,
    join_row,
    next_page,
    totals_of,
    visible,
)
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.problem import PAGE

DIGIT_BYTES = 2 * PAGE  # of a row's weights


@jit
def score_codes(spec, panel, scratch, row, ahead):
    """Write the sums of a tile of rows, while the bytes from `ahead` on are asked for."""
    a, stride = scratch.q + 4 * row * spec.head_dim, 4 * spec.head_dim
    for i in range(PAGE // panel.width):
        column = i * panel.width
        sums = multiply_keys(panel, a, stride, scratch.k + QUAD * column, spec.code_dim // QUAD, ahead + column)
        store_sums(panel, sums, scratch.p + ROW_BYTES * row + 4 * column, ROW_BYTES)


@jit
def score_all(spec, many, one, scratch, row, rows, ahead):
    """Write the sums of rows from `row` on, in tiles of many rows, then of one."""
    while row + many.rows <= rows:
        score_codes(spec, many, scratch, row, ahead)
        row += many.rows
    while row < rows:
        score_codes(spec, one, scratch, row, ahead)
        row += 1


@jit
def soften_all(spec, block, number, scratch, first, rows, results, key_scales, value_scales):
    """Turn sums into the digits of weights, and join maxima and totals, or leave them in results."""
    for row in range(first, rows):
        count = least(PAGE, visible(spec, block, number, row))
        maximum, total = totals_of(spec, scratch, row, results)
        soften_codes(
            spec.tall,
            scratch.p + ROW_BYTES * row,
            scratch.excess + 4 * row,
            scratch.scales + 4 * row,
            key_scales,
            value_scales,
            count,
            maximum,
            total,
            scratch.digits + DIGIT_BYTES * row,
            scratch.units + 4 * row,
        )
        if results == 0:
            join_row(scratch, row, maximum, total)


@jit
def weigh_code_columns(spec, panel, scratch, row, column, steps, results, ahead):
    """Sum up values by their weights, in a tile of rows and columns."""
    a, b, b_stride = scratch.digits + DIGIT_BYTES * row, scratch.v + QUAD * column, QUAD * spec.stride
    sums = multiply_values(panel, a, DIGIT_BYTES, b, b_stride, steps, ahead, scratch.units + 4 * row)
    if results != 0:
        store_sums(panel, sums, results + row * spec.result_bytes + 4 * column, spec.result_bytes)
    else:
        c = scratch.acc + 4 * (row * spec.stride + column)
        join_sums(panel, sums, c, 4 * spec.stride, scratch.old + 4 * row, scratch.new + 4 * row)


@jit
def weigh_codes(spec, panel, block, number, scratch, row, results, ahead):
    """Sum up values for a tile of rows."""
    count = least(PAGE, visible(spec, block, number, row + panel.rows - 1))
    steps, column = (count + QUAD - 1) // QUAD, 0
    while column + panel.width <= spec.stride:
        weigh_code_columns(spec, panel, scratch, row, column, steps, results, ahead + column * PAGE)
        column += panel.width
    while column < spec.stride:
        weigh_code_columns(spec, panel.narrow, scratch, row, column, steps, results, ahead + column * PAGE)
        column += panel.narrow.width


@jit
def weigh_all(spec, many, one, block, number, scratch, row, rows, results, ahead):
    """Sum up values for rows from `row` on, in tiles of many rows, then of one."""
    while row + many.rows <= rows:
        weigh_codes(spec, many, block, number, scratch, row, results, ahead)
        row += many.rows
    while row < rows:
        weigh_codes(spec, one, block, number, scratch, row, results, ahead)
        row += 1


@jit
def attend_codes(spec, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` of the block's sequence; few rows ask for what comes next."""
    page, row = page_of(job, block.sequence, number), first_row(spec, block, number)
    keys, values = keys_at(spec, job, page, kv_head), values_at(spec, job, page, kv_head)
    key_scales, value_scales = key_scales_at(spec, job, page, kv_head), value_scales_at(spec, job, page, kv_head)
    pack_keys(spec, keys, scratch.k)
    if rows >= spec.packed_rows:
        score_all(spec, spec.tall_codes, spec.one_code, scratch, row, rows, 0)
    else:
        ask_scales(value_scales)
        score_all(spec, spec.few_codes, spec.one_near_code, scratch, row, rows, values)
    soften_all(spec, block, number, scratch, row, rows, results, key_scales, value_scales)
    pack_values(spec, values, scratch.v)
    if rows >= spec.packed_rows:
        many, one = spec.tall_values, spec.one_value
        weigh_all(spec, many, one, block, number, scratch, row, rows, results, 0)
    else:
        after, head = next_page(spec, job, block, number, kv_head)
        ask_scales(key_scales_at(spec, job, after, head))
        many, one = spec.few_values, spec.one_near_value
        weigh_all(spec, many, one, block, number, scratch, row, rows, results, keys_at(spec, job, after, head))
