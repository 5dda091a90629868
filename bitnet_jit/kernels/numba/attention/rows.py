"""The rows of a block before a page: what they see of it, the softmax of their scores, and which page comes next."""

from bitnet_jit.kernels.numba.attention.job import page_of
from bitnet_jit.kernels.numba.attention.panel import join_sums, store_sums
from bitnet_jit.kernels.numba.attention.softmax import (
    join_totals,
    page_maximum,
    page_weights,
    visible_maximum,
    visible_weights,
)
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.scalars import most
from bitnet_jit.problem import PAGE

ROW_BYTES = 4 * PAGE  # of scores


@jit
def visible(spec, block, number, row):
    """Return how many keys from the beginning of page `number` on a row sees; it may be below 0 or above PAGE."""
    return block.position + row // spec.group + 1 - number * PAGE


@jit
def first_row(spec, block, number):
    """Return the first row that sees a key of page `number`."""
    return most(0, number * PAGE - block.position) * spec.group


@jit
def join_row(scratch, row, maximum, total):
    """Join a page's maximum and total to those of a row, and leave the factors of its sums."""
    largest, sums, old, new = scratch.largest, scratch.sums, scratch.old, scratch.new
    join_totals(largest + 4 * row, sums + 4 * row, maximum, total, old + 4 * row, new + 4 * row)


@jit
def totals_of(spec, scratch, row, results):
    """Return where the maximum and the total of a row go: to scratch memory, or to results."""
    if results == 0:
        return scratch.maxima + 4 * row, scratch.totals + 4 * row
    maximum = results + row * spec.result_bytes + 4 * spec.stride
    return maximum, maximum + 4


@jit
def find_maxima(spec, block, number, scratch, first, rows, results):
    """Find the maximum of the scores of each row."""
    for row in range(first, rows):
        p, count = scratch.p + ROW_BYTES * row, visible(spec, block, number, row)
        maximum, _ = totals_of(spec, scratch, row, results)
        if count >= PAGE:
            page_maximum(p, maximum)
        else:
            visible_maximum(p, count, maximum)


@jit
def soften_rows(spec, block, number, scratch, first, rows, results):
    """Turn scores into weights by their maxima, and join maxima and totals, unless they are left in results."""
    for row in range(first, rows):
        p, count = scratch.p + ROW_BYTES * row, visible(spec, block, number, row)
        maximum, total = totals_of(spec, scratch, row, results)
        if count >= PAGE:
            page_weights(p, maximum, total)
        else:
            visible_weights(p, count, maximum, total)
    if results == 0:
        for row in range(first, rows):
            join_row(scratch, row, scratch.maxima + 4 * row, scratch.totals + 4 * row)


@jit
def leave_sums(spec, panel, sums, scratch, row, column, results):
    """Join a page's sums of a tile to those of its rows, or leave them in results."""
    if results != 0:
        store_sums(panel, sums, results + row * spec.result_bytes + 4 * column, spec.result_bytes)
    else:
        c = scratch.acc + 4 * (row * spec.stride + column)
        join_sums(panel, sums, c, 4 * spec.stride, scratch.old + 4 * row, scratch.new + 4 * row)


@jit
def next_page(spec, job, block, number, kv_head):
    """Return the page and the head that a piece reads next, or those of now."""
    if kv_head + 1 < block.head + block.heads:
        return page_of(job, block.sequence, number), kv_head + 1
    if number + 1 < block.last:
        return page_of(job, block.sequence, number + 1), block.head
    return page_of(job, block.sequence, number), kv_head
