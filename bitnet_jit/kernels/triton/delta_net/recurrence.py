"""The gated delta rule, token by token: a program has some columns of one head's state, which stay in registers.

    p = S^T k,  r = S^T q;  u = (v - g p) beta;  y = g r + (q k) u;  S = g S + k u^T

which is g taken out of the sums. Both sums are of the state before the token, so that none waits for the other. They
run in one order, whatever a call holds: one kernel serves all. What the next tokens bring is loaded ahead.

A state is a tile (BLOCK_D, COLUMNS) of rows and columns. The other programs of the launch write the history, which
inputs.py has read.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.delta_net.inputs import PADDING
from bitnet_jit.kernels.triton.delta_net.tokens import load_before, tokens_before
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait

WARPS, COLUMNS = tl.constexpr(2), tl.constexpr(16)


@triton.jit
def keep_history(
    mixed_ptr, row_stride, history_ptr, positions_ptr, start, end, column, C: tl.constexpr, TAPS: tl.constexpr
):
    """Write some columns of the last TAPS - 1 tokens of a sequence; history_ptr is to the rows of its slot."""
    first, second, third, count = tokens_before(positions_ptr, end, start, TAPS)
    begins = tl.load(positions_ptr + first, mask=count > 0, other=0) + 1 == count
    missing = tl.where(begins, 0, TAPS - 1 - count)
    there, mixed_ptrs, history_ptrs = (column < C) & (count > 0), mixed_ptr + column, history_ptr + column
    behind = tl.maximum(missing - (TAPS - 2), 0)
    last = load_before(mixed_ptrs, row_stride, history_ptrs, first, start, behind, there, C, TAPS)
    middle, oldest = last, last
    if TAPS > 2:
        behind = tl.maximum(missing - (TAPS - 3), 0)
        middle = load_before(mixed_ptrs, row_stride, history_ptrs, second, start, behind, there, C, TAPS)
    if TAPS > 3:
        oldest = load_before(mixed_ptrs, row_stride, history_ptrs, third, start, missing, there, C, TAPS)
    tl.debug_barrier()  # whatever threads have loaded
    if TAPS > 3:
        tl.store(history_ptrs, oldest, mask=there)
    if TAPS > 2:
        tl.store(history_ptrs + (TAPS - 3) * C, middle, mask=there)
    tl.store(history_ptrs + (TAPS - 2) * C, last, mask=there)


@triton.jit
def load_token(
    q_ptrs, k_ptrs, v_ptrs, products_ptr, gates_ptr, token, end, shown,
    HEADS: tl.constexpr, KV: tl.constexpr, BLOCK_D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Load what a token before `end` brings: q and k (BLOCK_D,); v (COLUMNS,); and q k, g and beta of the head."""
    at, there = token.to(tl.int64), token < end
    q = tl.load(q_ptrs + at * (KV * BLOCK_D), mask=there, other=0.0)
    k = tl.load(k_ptrs + at * (KV * BLOCK_D), mask=there, other=0.0)
    v = tl.load(v_ptrs + at * N, mask=shown & there, other=0.0)
    product = tl.load(products_ptr + at * KV, mask=there, other=0.0)
    g = tl.load(gates_ptr + at * (2 * HEADS), mask=there, other=0.0)
    beta = tl.load(gates_ptr + at * (2 * HEADS) + HEADS, mask=there, other=0.0)
    return q, k, v, product, g, beta


@triton.jit
def advanced(state, q, k, v, product, g, beta):
    """Return the state behind a token, and y (COLUMNS,), 0 of padding; q and k are (BLOCK_D, 1).

    Of padding, k is 0 and g is 1: with u = -0 the state stays what it is, to the sign of a zero.
    """
    p, r = tl.sum(state * k, axis=0), tl.sum(state * q, axis=0)
    u = tl.where(beta == PADDING, -0.0, (v - g * p) * beta)
    y = tl.where(beta == PADDING, 0.0, tl.fma(product + tl.zeros_like(u), u, g * r))
    return tl.fma(tl.broadcast_to(k, state.shape), tl.broadcast_to(u[None, :], state.shape), g * state), y


@triton.jit(do_not_specialize=["row_stride", "R"])
def recurrence_kernel(
    mixed_ptr,  # (T, C) float, rows row_stride apart
    row_stride,
    history_ptr,  # (S, TAPS - 1, C) float
    states_ptr,  # (S, HEADS, D, DV) float32
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    slots_ptr,  # (R,) int32
    q_ptr,  # (T, KV, BLOCK_D) float32, as k
    k_ptr,
    v_ptr,  # (T, HEADS DV) float32
    products_ptr,  # (T, KV) float32
    gates_ptr,  # (T, 2, HEADS) float32: g, beta
    y_ptr,  # (T, HEADS DV) float
    R,
    DV: tl.constexpr,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES: tl.constexpr,  # of columns, of a head
    PDL: tl.constexpr,
):
    PARTS: tl.constexpr = HEADS * TILES + (C + BLOCK_C - 1) // BLOCK_C
    gdc_launch_dependents(PDL)
    sequence, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    gdc_wait(PDL)
    start, end = tl.load(starts_ptr + sequence), tl.load(starts_ptr + sequence + 1)
    slot = tl.load(slots_ptr + sequence).to(tl.int64)
    if part >= HEADS * TILES:
        columns = (part - HEADS * TILES) * BLOCK_C + tl.arange(0, BLOCK_C)
        history_ptr += slot * ((TAPS - 1) * C)
        keep_history(mixed_ptr, row_stride, history_ptr, positions_ptr, start, end, columns, C, TAPS)
    else:
        first = start
        while tl.load(positions_ptr + first, mask=first < end, other=0) < 0:
            first += 1
        head, tile, N = part // TILES, part % TILES, HEADS * DV
        d, column = tl.arange(0, BLOCK_D), tile * COLUMNS + tl.arange(0, COLUMNS)
        shown, kv_head = column < DV, head // (HEADS // KV)
        states_ptrs = states_ptr + (slot * HEADS + head) * (D * DV) + (d[:, None] * DV + column[None, :])
        inside = (d < D)[:, None] & shown[None, :] & (first < end)
        begins = tl.load(positions_ptr + first, mask=first < end, other=0) == 0
        state = tl.load(states_ptrs, mask=inside & (begins == 0), other=0.0)
        q_ptrs, k_ptrs = q_ptr + kv_head * BLOCK_D + d, k_ptr + kv_head * BLOCK_D + d
        v_ptrs, y_ptrs = v_ptr + head * DV + column, y_ptr + head * DV + column
        products_ptr, gates_ptr = products_ptr + kv_head, gates_ptr + head
        now = load_token(q_ptrs, k_ptrs, v_ptrs, products_ptr, gates_ptr, start, end, shown, HEADS, KV, BLOCK_D, N)
        then = load_token(q_ptrs, k_ptrs, v_ptrs, products_ptr, gates_ptr, start + 1, end, shown, HEADS, KV, BLOCK_D, N)
        later = load_token(
            q_ptrs, k_ptrs, v_ptrs, products_ptr, gates_ptr, start + 2, end, shown, HEADS, KV, BLOCK_D, N
        )
        q, k = now[0][:, None], now[1][:, None]
        for number in range(0, end - start):
            token = start + number
            latest = load_token(
                q_ptrs, k_ptrs, v_ptrs, products_ptr, gates_ptr, token + 3, end, shown, HEADS, KV, BLOCK_D, N
            )
            q1, k1 = then[0][:, None], then[1][:, None]  # reach their threads meanwhile
            _, _, v, product, g, beta = now
            state, y = advanced(state, q, k, v, product, g, beta)
            tl.store(y_ptrs + token.to(tl.int64) * N, y.to(y_ptr.dtype.element_ty), mask=shown)
            q, k, now, then, later = q1, k1, then, later, latest
        tl.store(states_ptrs, state, mask=inside)
