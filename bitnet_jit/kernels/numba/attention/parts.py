"""The end of a block: its pages joined, and y written; by which thread, where the pages came in parts.

Parts are joined in the order of pages, while others still run: a thread that ends a part joins it, and all done parts
behind it, if those before it are joined. One thread at a time joins a head; who comes meanwhile leaves its part to it.
"""

import numpy as np
from numba import types

from bitnet_jit.kernels.numba.attention.codes import QUAD
from bitnet_jit.kernels.numba.attention.job import Scratch
from bitnet_jit.kernels.numba.attention.order import order_words
from bitnet_jit.kernels.numba.attention.panel import join_sums, load_sums
from bitnet_jit.kernels.numba.attention.plan import end_at, result_at
from bitnet_jit.kernels.numba.attention.rows import first_row, join_row
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add, atomic_load, atomic_store
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, store_float, store_float32
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import F0
from bitnet_jit.problem import PAGE

LOWEST = np.float32(-np.inf)
WAITING, NEXT = (
    0,
    8,
)  # int64 of a header: parts that are done since a thread began to join, the page that is joined next


@jit
def clear_state(spec, scratch, rows):
    """Begin sums, with no page joined."""
    for row in range(rows):
        store_float32(scratch.largest, row, LOWEST)
        store_float32(scratch.sums, row, F0)
    for i in range(rows * spec.stride):
        store_float32(scratch.acc, i, F0)


@jit
def order_code_sums(spec, scratch, rows):
    """Put the sums of values of int8 in the order of columns."""
    for row in range(rows):
        for column in range(0, spec.whole_words, QUAD * spec.lanes):
            order_words(spec.tall, scratch.acc + 4 * (row * spec.stride + column))


@jit
def order_nothing(spec, scratch, rows):
    """Do nothing: sums lie in the order of their columns."""


order_sums = one_of(lambda spec: order_code_sums if spec.is_int8 else order_nothing)


@jit
def store_rows(spec, job, block, kv_head, scratch, rows):
    """Write y of a block's rows."""
    for row in range(rows):
        head = (block.token + row // spec.group) * spec.heads + kv_head * spec.group + row % spec.group
        total = load_float32(scratch.sums, row)
        for d in range(spec.head_dim):
            value = load_float32(scratch.acc, row * spec.stride + d) / total
            store_float(spec.x_dtype, job.y, head * spec.head_dim + d, value)


@jit
def finish_head(spec, job, block, kv_head, scratch, rows):
    """Write y of a head, whose pages are joined."""
    order_sums(spec, scratch, rows)
    store_rows(spec, job, block, kv_head, scratch, rows)


@jit
def pages_of(block):
    """Return how many pages a block sees."""
    return (block.position + block.tokens - 1) // PAGE + 1


@jit
def joined_of(spec, scratch, rows, results):
    """Return the scratch memory with the sums of the pages that are joined, which lie before those of the pages."""
    acc = result_at(spec, results, rows, -1)
    largest = acc + 4 * rows * spec.stride
    return Scratch(
        scratch.q,
        scratch.p,
        acc,
        scratch.k,
        scratch.v,
        largest,
        largest + 4 * rows,
        scratch.maxima,
        scratch.totals,
        scratch.old,
        scratch.new,
        scratch.scales,
        scratch.excess,
        scratch.units,
        scratch.digits,
    )


@jit
def join_columns(spec, panel, result, joined, row, column, end):
    """Join a page's sums of a row to those before it, from a column on; return the column behind."""
    c = joined.acc + 4 * row * spec.stride
    while column + panel.width <= end:
        sums = load_sums(panel, result + 4 * column)
        join_sums(panel, sums, c + 4 * column, 0, joined.old + 4 * row, joined.new + 4 * row)
        column += panel.width
    return column


@jit
def join_page(spec, block, number, joined, rows, results):
    """Join what a page has left."""
    first, page = first_row(spec, block, number), result_at(spec, results, rows, number)
    for row in range(first, rows):
        maximum = page + row * spec.result_bytes + 4 * spec.stride
        join_row(joined, row, maximum, maximum + 4)
    for row in range(first, rows):
        result = page + row * spec.result_bytes
        column = join_columns(spec, spec.one, result, joined, row, 0, spec.stride)
        join_columns(spec, spec.one.narrow, result, joined, row, column, spec.stride)


@jit
def join_done(spec, job, block, kv_head, joined, rows, results):
    """Join the parts that are done and come next; write y behind the last one."""
    next_page = pointer(results + NEXT, types.int64)
    number, pages = next_page[0], pages_of(block)
    if number == pages:  # the last part was seen before its thread came here
        return
    if number == 0:
        clear_state(spec, joined, rows)
    while number < pages:
        end = atomic_load(end_at(spec, results, rows, number))
        if end == 0:
            break
        while number < end:
            join_page(spec, block, number, joined, rows, results)
            number += 1
    if number == pages:
        finish_head(spec, job, block, kv_head, joined, rows)
    next_page[0] = number


@jit
def finish_part(spec, job, block, kv_head, scratch, rows, results):
    """Say that a part is done, and join what can be joined, unless another thread is about it, which then does so."""
    atomic_store(end_at(spec, results, rows, block.first), block.last)
    waiting = atomic_add(results + WAITING, 1) + 1
    if waiting > 1:
        return
    joined = joined_of(spec, scratch, rows, results)
    while waiting > 0:
        join_done(spec, job, block, kv_head, joined, rows, results)
        waiting = atomic_add(results + WAITING, -waiting) - waiting
