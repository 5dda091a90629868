"""A piece of work: a sequence's tokens of one key head, and of the value heads that share it.

A piece reads and writes its own numbers of the history alone, and its own states, so that no piece waits for another.
It takes TOKENS tokens at a time: the convolution of all, then the recurrence over each value head. What a token gets
depends on its sequence alone, so whole prompts, chunks and single tokens give the same bits on any number of threads.
"""

from numba import types

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.delta_net.inputs import load_row, load_weight, prepare_token, store_row
from bitnet_jit.kernels.numba.delta_net.job import TOKENS
from bitnet_jit.kernels.numba.delta_net.recurrence import recur
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, load_int32, store_float, store_float32
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, least
from bitnet_jit.problem import MAX_TAPS


@jit
def position_of(job, token):
    """Return the position of a token; -1 for padding."""
    return types.int64(load_int32(job.positions, token))


@jit
def next_token(job, token, end):
    """Return the first token from `token` on that is not padding, or `end`."""
    while token < end and position_of(job, token) < 0:
        token += 1
    return token


@jit
def clear_padding(spec, job, token, end, head):
    """Make y of a key head zero where tokens are padding."""
    for t in range(token, end):
        if position_of(job, t) < 0:
            clear_y(spec, job, t, head)


@jit
def clear_y(spec, job, token, head):
    """Make y of a key head zero for a token."""
    width = spec.group * spec.dv
    first = (token * spec.key_heads + head) * width
    for i in range(width):
        store_float(spec.x_dtype, job.y, first + i, F0)


@jit
def store_y(spec, job, token, head, x):
    """Write y of a key head for a token, which is in the place of v at address x."""
    for i in range(spec.group):
        first = (token * spec.heads + head * spec.group + i) * spec.dv
        y = x + 4 * (2 * spec.padded_dk + i * spec.padded_dv)
        for d in range(spec.dv):
            store_float(spec.x_dtype, job.y, first + d, load_float32(y, d))


@jit
def begin(spec, job, is_first, slot, head, states, scratch):
    """Read the history of a key head; where a sequence begins, make it and the states zero."""
    if is_first:
        for i in range((MAX_TAPS - 1) * spec.width):
            store_float32(scratch.rows, i, F0)
        for i in range(spec.group * spec.dk * spec.dv):
            store_float32(states, i, F0)
    else:
        for row in range(MAX_TAPS - job.taps, MAX_TAPS - 1):
            load_row(spec, job.history, kept_at(spec, job, slot, row), head, scratch.rows + row * spec.token_bytes)
    load_weight(spec, job, head, scratch.weight)


@jit
def kept_at(spec, job, slot, row):
    """Return the first element in the history of what is row `row` before a call's tokens."""
    return (slot * (job.taps - 1) + row - (MAX_TAPS - job.taps)) * spec.features


@jit
def end_piece(spec, job, slot, head, scratch):
    """Write the history of a key head."""
    for row in range(MAX_TAPS - job.taps, MAX_TAPS - 1):
        store_row(spec, job.history, kept_at(spec, job, slot, row), head, scratch.rows + row * spec.token_bytes)


@jit
def take_tokens(spec, job, token, end, head, scratch):
    """Convolve up to TOKENS tokens; return how many, and the one behind them that is not padding."""
    count = 0
    while token < end and count < TOKENS:
        rows, x = scratch.rows + count * spec.token_bytes, scratch.x + count * spec.token_bytes
        load_row(spec, job.mixed, token * job.row_stride, head, rows + (MAX_TAPS - 1) * spec.token_bytes)
        prepare_token(spec, job, token, head, rows, scratch.weight, x, scratch.gates + count * spec.gate_bytes)
        pointer(scratch.tokens, types.int64)[count] = token
        count, token = count + 1, next_token(job, token + 1, end)
    return count, token


@jit
def keep_rows(spec, count, scratch):
    """Move the rows of the last tokens to where the next ones look for those before them."""
    for i in range((MAX_TAPS - 1) * spec.width):
        store_float32(scratch.rows, i, load_float32(scratch.rows, count * spec.width + i))


@jit
def run_piece(spec, job, sequence, head, scratch):
    """Run a sequence's tokens of one key head; those of no sequence are padding."""
    token = types.int64(load_int32(job.starts, sequence))
    if sequence == job.sequences:
        for t in range(token, job.tokens):
            clear_y(spec, job, t, head)
        for t in range(load_int32(job.starts, 0)):
            clear_y(spec, job, t, head)
        return
    end = least(types.int64(load_int32(job.starts, sequence + 1)), job.tokens)
    clear_padding(spec, job, token, end, head)
    token = next_token(job, token, end)
    if token == end:
        return
    slot = types.int64(load_int32(job.slots, sequence))
    states = job.states + (slot * spec.heads + head * spec.group) * spec.state_bytes
    begin(spec, job, position_of(job, token) == 0, slot, head, states, scratch)
    while token < end:
        count, token = take_tokens(spec, job, token, end, head, scratch)
        for i in range(spec.group):
            recur(spec, scratch, states + i * spec.state_bytes, i, count)
        for i in range(count):
            store_y(spec, job, pointer(scratch.tokens, types.int64)[i], head, scratch.x + i * spec.token_bytes)
        keep_rows(spec, count, scratch)
    end_piece(spec, job, slot, head, scratch)
