"""A block of queries attends to pages, one after the other: scores, their softmax, the weighted sum of values.

Rows are tokens by the heads that share keys and values. Of a page only the rows that see some of it take part, which
are the last ones; a row's sum over values ends at its own position, whatever a page holds behind it.
"""

from bitnet_jit.kernels.numba.attention.attend_codes import attend_codes
from bitnet_jit.kernels.numba.attention.job import Scratch, keys_at, page_of, values_at
from bitnet_jit.kernels.numba.attention.pages import pack_page, prepare_queries
from bitnet_jit.kernels.numba.attention.panel import (
    add_nonzero_products,
    multiply,
    store_sums,
)
from bitnet_jit.kernels.numba.attention.parts import clear_state, finish_head, finish_part, pages_of
from bitnet_jit.kernels.numba.attention.plan import result_at, results_bytes
from bitnet_jit.kernels.numba.attention.rows import (
    ROW_BYTES,
    find_maxima,
    first_row,
    leave_sums,
    next_page,
    soften_rows,
    visible,
)
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.problem import PAGE

EVEN = -2


@jit
def score(spec, panel, scratch, k, row, rows, ahead):
    """Write the scores of tiles of rows from `row` on, and return the row behind; ask for what lies at `ahead`."""
    stride = 4 * spec.head_dim
    while row + panel.rows <= rows:
        a = scratch.q + row * stride
        for i in range(PAGE // panel.width):
            column = i * panel.width
            asked = ahead + panel.size * column * spec.head_dim
            sums = multiply(panel, a, stride, k + panel.size * column, panel.size * PAGE, spec.head_dim, asked)
            store_sums(panel, sums, scratch.p + ROW_BYTES * row + 4 * column, ROW_BYTES)
        row += panel.rows
    return row


@jit
def weigh_columns(spec, panel, scratch, v, v_stride, row, column, low, high, results, ahead):
    """Sum up values by their weights, in a tile of rows and columns: `low` keys for all, up to `high` for some."""
    a, b = scratch.p + ROW_BYTES * row, v + panel.size * column
    sums = multiply(panel, a, ROW_BYTES, b, v_stride, low, ahead + panel.size * column * PAGE)
    for s in range(low, high):
        sums = add_nonzero_products(panel, sums, a + 4 * s, ROW_BYTES, b + s * v_stride)
    leave_sums(spec, panel, sums, scratch, row, column, results)


@jit
def weigh_rest(spec, panel, scratch, v, v_stride, row, low, high, results, ahead):
    """Sum up the columns that are left, a register at a time."""
    for i in range((spec.stride - spec.whole) // panel.narrow.width):
        column = spec.whole + i * panel.narrow.width
        weigh_columns(spec, panel.narrow, scratch, v, v_stride, row, column, low, high, results, ahead)


@jit
def weigh_no_rest(spec, panel, scratch, v, v_stride, row, low, high, results, ahead):
    """Do nothing: no columns are left."""


finish = one_of(lambda spec: weigh_no_rest if spec.whole == spec.stride else weigh_rest)


@jit
def weigh(spec, panel, block, number, scratch, v, v_stride, row, rows, results, ahead):
    """Sum up values for tiles of rows from `row` on, and return the row behind; ask for what lies at `ahead`."""
    while row + panel.rows <= rows:
        low = least(PAGE, visible(spec, block, number, row)) & EVEN
        high = least(PAGE, visible(spec, block, number, row + panel.rows - 1))
        for i in range(spec.whole // panel.width):
            weigh_columns(spec, panel, scratch, v, v_stride, row, i * panel.width, low, high, results, ahead)
        finish(spec, panel, scratch, v, v_stride, row, low, high, results, ahead)
        row += panel.rows
    return row


@jit
def attend_packed(spec, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` of the block's sequence, made float32 in whole registers first."""
    page, row = page_of(job, block.sequence, number), first_row(spec, block, number)
    pack_page(spec, keys_at(spec, job, page, kv_head), values_at(spec, job, page, kv_head), scratch)
    behind = score(spec, spec.tall, scratch, scratch.k, row, rows, 0)
    score(spec, spec.one, scratch, scratch.k, behind, rows, 0)
    find_maxima(spec, block, number, scratch, row, rows, results)
    soften_rows(spec, block, number, scratch, row, rows, results)
    v_stride = 4 * spec.stride
    behind = weigh(spec, spec.tall, block, number, scratch, scratch.v, v_stride, row, rows, results, 0)
    weigh(spec, spec.one, block, number, scratch, scratch.v, v_stride, behind, rows, results, 0)


@jit
def attend_in_memory(spec, job, block, number, kv_head, scratch, rows, results):
    """Attend to page `number` as it comes from memory, and ask for what comes next."""
    page, row = page_of(job, block.sequence, number), first_row(spec, block, number)
    k, v = keys_at(spec, job, page, kv_head), values_at(spec, job, page, kv_head)
    after = keys_at(spec, job, *next_page(spec, job, block, number, kv_head))
    few, one, v_stride = spec.few_in_memory, spec.one_in_memory, spec.cache_bytes * spec.head_dim
    behind = score(spec, few, scratch, k, row, rows, v)
    score(spec, one, scratch, k, behind, rows, v)
    find_maxima(spec, block, number, scratch, row, rows, results)
    soften_rows(spec, block, number, scratch, row, rows, results)
    behind = weigh(spec, few, block, number, scratch, v, v_stride, row, rows, results, after)
    weigh(spec, one, block, number, scratch, v, v_stride, behind, rows, results, after)


attend_page = one_of(
    lambda spec: attend_codes if spec.is_int8 else attend_packed if spec.is_ragged else attend_in_memory
)


@jit
def of_head(spec, scratch, rows, i):
    """Return the scratch memory for the head number i of a piece: queries and sums of its own, the rest shared."""
    return Scratch(
        scratch.q + 4 * i * rows * spec.head_dim,
        scratch.p,
        scratch.acc + 4 * i * rows * spec.stride,
        scratch.k,
        scratch.v,
        scratch.largest + 4 * i * rows,
        scratch.sums + 4 * i * rows,
        scratch.maxima,
        scratch.totals,
        scratch.old,
        scratch.new,
        scratch.scales + 4 * i * rows,
        scratch.excess + 4 * i * rows,
        scratch.units,
        scratch.digits,
    )


@jit
def results_of(spec, block, rows, kv_head):
    """Return where the parts of a block leave results for a head; 0 where there is one part."""
    if block.results == 0:
        return 0
    return block.results + kv_head * results_bytes(spec, rows, pages_of(block))


@jit
def prepare(spec, job, block, scratch):
    """Prepare the queries of a piece."""
    rows = block.tokens * spec.group
    for i in range(block.heads):
        prepare_queries(spec, job, block, block.head + i, of_head(spec, scratch, rows, i))


@jit
def attend(spec, job, block, scratch):
    """Run a piece with queries that are prepared: all pages of a block, or a part of them.

    Page by page, so that memory is read in its order.
    """
    rows = block.tokens * spec.group
    if block.results == 0:
        for i in range(block.heads):
            clear_state(spec, of_head(spec, scratch, rows, i), rows)
    for number in range(block.first, block.last):
        for i in range(block.heads):
            results = results_of(spec, block, rows, block.head + i)
            if results != 0:
                results = result_at(spec, results, rows, number)
            attend_page(spec, job, block, number, block.head + i, of_head(spec, scratch, rows, i), rows, results)
    for i in range(block.heads):
        kv_head, here = block.head + i, of_head(spec, scratch, rows, i)
        results = results_of(spec, block, rows, kv_head)
        if results != 0:
            finish_part(spec, job, block, kv_head, here, rows, results)
        else:
            finish_head(spec, job, block, kv_head, here, rows)
