"""A page of an int8 cache: exact sums of codes for scores, weights in two digits, exact sums of values.

Sums are whole numbers, so that many rows and few give the same bits by any tiles.
"""

from bitnet_jit.kernels.numba.attention.code_pages import pack_keys, pack_values
from bitnet_jit.kernels.numba.attention.code_softmax import code_scores, split_weights
from bitnet_jit.kernels.numba.attention.codes import (
    QUAD,
    ask_lines,
    multiply_key_bytes,
    multiply_keys,
    multiply_value_bytes,
    multiply_values,
)
from bitnet_jit.kernels.numba.attention.job import key_scales_at, keys_at, page_of, value_scales_at, values_at
from bitnet_jit.kernels.numba.attention.panel import LINE, store_sums
from bitnet_jit.kernels.numba.attention.rows import (
    ROW_BYTES,
    first_row,
    leave_sums,
    next_page,
    soften_rows,
    totals_of,
    visible,
)
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.problem import PAGE

DIGIT_BYTES = 2 * PAGE  # of a row's weights


@jit
def score_codes(spec, panel, scratch, row, rows, ahead):
    """Write the sums of tiles of rows from `row` on, over packed keys, and return the row behind."""
    while row + panel.rows <= rows:
        a, stride = scratch.q + 4 * row * spec.head_dim, 4 * spec.head_dim
        for i in range(PAGE // panel.width):
            column = i * panel.width
            sums = multiply_keys(panel, a, stride, scratch.k + QUAD * column, spec.code_dim // QUAD, ahead)
            store_sums(panel, sums, scratch.p + ROW_BYTES * row + 4 * column, ROW_BYTES)
        row += panel.rows
    return row


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
def split_rows(spec, panel, block, number, scratch, first, rows, value_scales, ahead):
    """Split the weights of rows into digits."""
    for row in range(first, rows):
        ask_lines(panel, ahead + 8 * LINE * (row - first), 8)
        count = least(PAGE, visible(spec, block, number, row))
        digits = scratch.digits + DIGIT_BYTES * row
        split_weights(scratch.p + ROW_BYTES * row, count, value_scales, digits, scratch.units + 4 * row)


@jit
def weigh_code_columns(spec, panel, scratch, row, column, steps, results, ahead):
    """Sum up values by their weights, in a tile of rows and columns."""
    a, b, b_stride = scratch.digits + DIGIT_BYTES * row, scratch.v + QUAD * column, QUAD * spec.stride
    sums = multiply_values(panel, a, DIGIT_BYTES, b, b_stride, steps, ahead, scratch.units + 4 * row)
    leave_sums(spec, panel, sums, scratch, row, column, results)


@jit
def weigh_codes(spec, panel, block, number, scratch, row, rows, results, ahead):
    """Sum up packed values for tiles of rows from `row` on, and return the row behind."""
    while row + panel.rows <= rows:
        count = least(PAGE, visible(spec, block, number, row + panel.rows - 1))
        steps, column = (count + QUAD - 1) // QUAD, 0
        while column + panel.width <= spec.stride:
            weigh_code_columns(spec, panel, scratch, row, column, steps, results, ahead + column * (LINE // 2))
            column += panel.width
        while column < spec.stride:
            weigh_code_columns(spec, panel.narrow, scratch, row, column, steps, results, ahead + column * (LINE // 2))
            column += panel.narrow.width
        row += panel.rows
    return row


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
    behind = score_codes(spec, tiles.codes, scratch, row, rows, values + quarter)
    score_codes(spec, tiles.one_code, scratch, behind, rows, values + quarter)
    later = values + 3 * quarter
    scale_scores(spec, tiles.codes, block, number, scratch, row, rows, results, key_scales, later)
    soften_rows(spec, block, number, scratch, row, rows, results)
    split_rows(spec, tiles.codes, block, number, scratch, row, rows, value_scales, later)
    pack_values(spec, tiles.codes, values, scratch.v, next_keys)
    later = next_keys + 2 * quarter
    behind = weigh_codes(spec, tiles.values, block, number, scratch, row, rows, results, later)
    weigh_codes(spec, tiles.one_value, block, number, scratch, behind, rows, results, later)


@jit
def score_bytes(spec, panel, scratch, keys, row, rows, ahead):
    """Write the sums of tiles of rows from `row` on, over keys in memory; return the row behind."""
    while row + panel.rows <= rows:
        a, stride = scratch.q + 4 * row * spec.head_dim, 4 * spec.head_dim
        for column in range(0, PAGE, panel.width):
            sums = multiply_key_bytes(panel, a, stride, keys + column, spec.head_dim // QUAD, ahead)
            store_sums(panel, sums, scratch.p + ROW_BYTES * row + 4 * column, ROW_BYTES)
        row += panel.rows
    return row


@jit
def weigh_bytes_half(spec, panel, scratch, values, row, column, steps, results, ahead):
    """Sum up half the columns of a piece of values in memory by the weights of a tile of rows."""
    a = scratch.digits + DIGIT_BYTES * row
    sums = multiply_value_bytes(panel, a, DIGIT_BYTES, values, spec.head_dim, steps, ahead, scratch.units + 4 * row)
    leave_sums(spec, panel, sums, scratch, row, column, results)


@jit
def weigh_bytes(spec, panel, block, number, scratch, values, row, rows, results, ahead):
    """Sum up values in memory for tiles of rows from `row` on; return the row behind."""
    while row + panel.rows <= rows:
        count = least(PAGE, visible(spec, block, number, row + panel.rows - 1))
        steps = (count + QUAD - 1) // QUAD
        for column in range(0, spec.head_dim, 2 * panel.width):
            piece, asked = values + column, ahead + PAGE * column
            weigh_bytes_half(spec, panel, scratch, piece, row, column, steps, results, asked)
            column, asked = column + panel.width, asked + PAGE * panel.width
            weigh_bytes_half(spec, panel.upper_half, scratch, piece, row, column, steps, results, asked)
        row += panel.rows
    return row


@jit
def attend_bytes(spec, tiles, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` as it comes from memory, and ask for what comes next: for few rows."""
    page, first = page_of(job, block.sequence, number), first_row(spec, block, number)
    keys, values = keys_at(spec, job, page, kv_head), values_at(spec, job, page, kv_head)
    key_scales, value_scales = key_scales_at(spec, job, page, kv_head), value_scales_at(spec, job, page, kv_head)
    after, head = next_page(spec, job, block, number, kv_head)
    next_keys, next_values = keys_at(spec, job, after, head), values_at(spec, job, after, head)
    ask_lines(tiles.codes, key_scales_at(spec, job, after, head), 4)
    ask_lines(tiles.codes, value_scales_at(spec, job, after, head), 4)
    row = score_bytes(spec, tiles.codes, scratch, keys, first, rows, next_keys)
    score_bytes(spec, tiles.one_code, scratch, keys, row, rows, next_keys)
    asked = next_keys + spec.head_bytes // 2
    scale_scores(spec, tiles.codes, block, number, scratch, first, rows, results, key_scales, asked)
    soften_rows(spec, block, number, scratch, first, rows, results)
    split_rows(spec, tiles.codes, block, number, scratch, first, rows, value_scales, asked + spec.head_bytes // 4)
    row = weigh_bytes(spec, tiles.values, block, number, scratch, values, first, rows, results, next_values)
    weigh_bytes(spec, tiles.one_value, block, number, scratch, values, row, rows, results, next_values)


attend_tiles = one_of(lambda spec: attend_bytes if spec.reads_bytes else attend_with)


@jit
def attend_codes(spec, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` of the block's sequence."""
    attend_tiles(spec, spec.code_tiles, job, block, number, kv_head, scratch, rows, results)
