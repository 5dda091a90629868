"""A page of an int8 cache: exact sums of codes for scores, weights in two digits, exact sums of values.

Sums are whole numbers, so that many rows and few give the same bits by any tiles.
"""

from bitnet_jit.kernels.numba.attention.code_pages import pack_keys, pack_values
from bitnet_jit.kernels.numba.attention.code_softmax import code_scores, split_weights
from bitnet_jit.kernels.numba.attention.codes import (
    QUAD,
    ask_lines,
    multiply_keys,
    multiply_values,
)
from bitnet_jit.kernels.numba.attention.job import key_scales_at, keys_at, page_of, value_scales_at, values_at
from bitnet_jit.kernels.numba.attention.panel import LINE, join_sums, store_sums
from bitnet_jit.kernels.numba.attention.rows import (
    ROW_BYTES,
    first_row,
    next_page,
    soften_rows,
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
        sums = multiply_keys(panel, a, stride, scratch.k + QUAD * column, spec.code_dim // QUAD, ahead)
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
def scale_scores(spec, panel, block, number, scratch, first, rows, results, key_scales, ahead):
    """Turn sums into scores, and find their maxima."""
    for row in range(first, rows):
        ask_lines(panel, ahead + 8 * LINE * (row - first), 8)
        sums, count = scratch.p + ROW_BYTES * row, least(PAGE, visible(spec, block, number, row))
        excess, scale = scratch.excess + 4 * row, scratch.scales + 4 * row
        maximum, _ = totals_of(spec, scratch, row, results)
        code_scores(panel, sums, excess, scale, key_scales, count, maximum)


@jit
def split_rows(spec, block, number, scratch, first, rows, value_scales):
    """Split the weights of rows into digits."""
    for row in range(first, rows):
        count = least(PAGE, visible(spec, block, number, row))
        digits = scratch.digits + DIGIT_BYTES * row
        split_weights(scratch.p + ROW_BYTES * row, count, value_scales, digits, scratch.units + 4 * row)


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
        weigh_code_columns(spec, panel, scratch, row, column, steps, results, ahead + column * (LINE // 2))
        column += panel.width
    while column < spec.stride:
        weigh_code_columns(spec, panel.narrow, scratch, row, column, steps, results, ahead + column * (LINE // 2))
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
def attend_with(spec, tiles, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` of the block's sequence by tiles, which may ask for what comes next."""
    page, row = page_of(job, block.sequence, number), first_row(spec, block, number)
    keys, values = keys_at(spec, job, page, kv_head), values_at(spec, job, page, kv_head)
    key_scales, value_scales = key_scales_at(spec, job, page, kv_head), value_scales_at(spec, job, page, kv_head)
    after, head = next_page(spec, job, block, number, kv_head)
    next_keys = keys_at(spec, job, after, head)
    quarter = spec.head_bytes // 4  # requests take turns with all that is done
    ask_lines(tiles.codes, key_scales_at(spec, job, after, head), 4)
    ask_lines(tiles.codes, value_scales_at(spec, job, after, head), 4)
    pack_keys(spec, tiles.codes, keys, scratch.k, values)
    score_all(spec, tiles.codes, tiles.one_code, scratch, row, rows, values + quarter)
    later = values + 3 * quarter
    scale_scores(spec, tiles.codes, block, number, scratch, row, rows, results, key_scales, later)
    soften_rows(spec, block, number, scratch, row, rows, results)
    split_rows(spec, block, number, scratch, row, rows, value_scales)
    pack_values(spec, tiles.codes, values, scratch.v, next_keys)
    weigh_all(spec, tiles.values, tiles.one_value, block, number, scratch, row, rows, results, next_keys + 2 * quarter)


@jit
def attend_codes(spec, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` of the block's sequence; few rows ask for what comes next."""
    if rows >= spec.packed_rows:
        attend_with(spec, spec.tall_tiles, job, block, number, kv_head, scratch, rows, results)
    else:
        attend_with(spec, spec.few_tiles, job, block, number, kv_head, scratch, rows, results)
