"""The recurrence of a key head's value heads over some tokens of a sequence: their columns, tile by tile.

A tile of a state is read from its slot once, stays in the first cache from token to token, and is written back with the
last one. The pass that updates it for one token sums up for the next.
"""

from numba import types

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.delta_net.columns import add_rows, correct, update_and_add_rows, update_rows
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, store_float32
from bitnet_jit.kernels.numba.intrinsics.scalars import F0


@jit
def recur_columns(spec, tile, scratch, state, stride, head, column, count):
    """Run `count` tokens over the columns from `column` on of value head `head` of the group; write y over v."""
    x, gates, step = scratch.x, scratch.gates, spec.token_bytes
    k, g = x + 4 * spec.padded_dk, gates + 4 + 8 * head
    v = x + 4 * (2 * spec.padded_dk + head * spec.padded_dv + column)
    target_stride = types.int64(4 * tile.width)
    source, source_stride = state, stride
    sums = add_rows(tile, spec.dk, source, source_stride, k, x)
    for _ in range(count - 1):
        u = correct(tile, sums, v, g, g + 4, gates)
        sums = update_and_add_rows(
            tile, spec.dk, u, source, source_stride, scratch.block, target_stride, k, g, k + step, x + step
        )
        source, source_stride = scratch.block, target_stride
        x, k, v, g, gates = x + step, k + step, v + step, g + spec.gate_bytes, gates + spec.gate_bytes
    u = correct(tile, sums, v, g, g + 4, gates)
    update_rows(tile, spec.dk, u, source, source_stride, state, stride, k, g)


@jit
def copy_columns(rows, count, source, stride, target, target_stride):
    """Copy `count` columns of a state."""
    for row in range(rows):
        for i in range(count):
            store_float32(target + row * target_stride, i, load_float32(source + row * stride, i))


@jit
def recur_rest(spec, scratch, state, head, column, count):
    """Run over the columns that fill no register, in scratch memory with columns of zeros beside them."""
    rest, stride = spec.dv - column, types.int64(4 * spec.tile.narrow.width)
    block = scratch.rest
    for i in range(spec.dk * spec.tile.narrow.width):
        store_float32(block, i, F0)
    copy_columns(spec.dk, rest, state, spec.row_bytes, block, stride)
    recur_columns(spec, spec.tile.narrow, scratch, block, stride, head, column, count)
    copy_columns(spec.dk, rest, block, stride, state, spec.row_bytes)


@jit
def recur_no_rest(spec, scratch, state, head, column, count):
    """Do nothing: no columns are left."""


finish = one_of(lambda spec: recur_rest if spec.dv % spec.lanes else recur_no_rest)


@jit
def recur(spec, scratch, state, head, count):
    """Run `count` tokens over the state of value head `head` of the group at an address."""
    column = 0
    while column + spec.tile.width <= spec.dv:
        recur_columns(spec, spec.tile, scratch, state + 4 * column, spec.row_bytes, head, column, count)
        column += spec.tile.width
    while column + spec.tile.narrow.width <= spec.dv:
        recur_columns(spec, spec.tile.narrow, scratch, state + 4 * column, spec.row_bytes, head, column, count)
        column += spec.tile.narrow.width
    finish(spec, scratch, state + 4 * column, head, column, count)
