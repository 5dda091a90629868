"""The gated delta rule, token by token: a program has some columns of one head's state, which stay in registers.

    p = S^T k,  r = S^T q;  u = (v - g p) beta;  y = g r + (q k) u;  S = g S + k u^T

which is g taken out of the sums. Both sums are of the state before the token, so that none waits for the other. They
run in one order, whatever a call holds: one kernel serves all. What the next tokens bring is loaded ahead.

A state is a tile (BLOCK_D / LANES, WARPS, LANES, COLUMNS) of rows, columns and rows: a warp has COLUMNS neighbouring
columns, of which a thread has every row but those of LANES - 1 others. So sums over rows are of a thread's registers,
then of two exchanges. The other programs of the launch write the history, which inputs.py has read.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.delta_net.inputs import PADDING
from bitnet_jit.kernels.triton.delta_net.tokens import load_before, tokens_before
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait

WARPS, LANES, COLUMNS = tl.constexpr(4), tl.constexpr(4), tl.constexpr(8)


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
    q_ptrs, k_ptrs, v_ptrs, products_ptrs, gates_ptrs, token, end, shown,
    HEADS: tl.constexpr, KV: tl.constexpr, BLOCK_D: tl.constexpr, N,
):  # fmt: skip
    """Load what a token before `end` brings: q and k (BLOCK_D / LANES, LANES); v, q k, g, beta (WARPS, COLUMNS).

    A thread loads the last three for itself: what a warp shares would be waited for at once.
    """
    at, there = token.to(tl.int64), token < end
    q = tl.load(q_ptrs + at * (KV * BLOCK_D), mask=there, other=0.0)
    k = tl.load(k_ptrs + at * (KV * BLOCK_D), mask=there, other=0.0)
    v = tl.load(v_ptrs + at * N, mask=shown & there, other=0.0)
    product = tl.load(products_ptrs + at * KV, mask=shown & there, other=0.0)
    g = tl.load(gates_ptrs + at * (2 * HEADS), mask=shown & there, other=0.0)
    beta = tl.load(gates_ptrs + at * (2 * HEADS) + HEADS, mask=shown & there, other=0.0)
    return q, k, v, product, g, beta


@triton.jit
def advanced(state, q, k, v, product, g, beta):
    """Return the state behind a token, and y (WARPS, COLUMNS); q and k are (BLOCK_D / LANES, 1, LANES, 1).

    Of padding, k is 0 and g is 1: with u = -0 the state stays what it is, to the sign of a zero.
    """
    p, r = tl.sum(tl.sum(state * k, axis=0), axis=1), tl.sum(tl.sum(state * q, axis=0), axis=1)
    u = tl.where(beta == PADDING, -0.0, (v - g * p) * beta)
    y = tl.fma(product, u, g * r)
    key, change = tl.broadcast_to(k, state.shape), tl.broadcast_to(u[None, :, None, :], state.shape)
    return tl.fma(key, change, g[None, :, None, :] * state), y


@triton.jit(do_not_specialize=["row_stride", "R", "DV"])
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
    DV,  # not a constant: a thread loads columns one by one, which sets the places of a state's tile
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
        head, tile = part // TILES, part % TILES
        w, c = tl.arange(0, WARPS)[:, None], tl.arange(0, COLUMNS)[None, :]
        column = tile * (WARPS * COLUMNS) + w * COLUMNS + c
        i, lane = tl.arange(0, BLOCK_D // LANES)[:, None], tl.arange(0, LANES)[None, :]
        d = lane * (BLOCK_D // LANES) + i
        row = d[:, None, :, None]
        states_ptrs = states_ptr + (slot * HEADS + head) * (D * DV) + (row * DV + column[None, :, None, :])
        inside = (row < D) & (column < DV)[None, :, None, :] & (first < end)
        begins = tl.load(positions_ptr + first, mask=first < end, other=0) == 0
        state = tl.load(states_ptrs, mask=inside & (begins == 0), other=0.0)
        q_ptrs, k_ptrs = q_ptr + head // (HEADS // KV) * BLOCK_D + d, k_ptr + head // (HEADS // KV) * BLOCK_D + d
        v_ptrs, shown, N = v_ptr + head * DV + column, column < DV, HEADS * DV
        products_ptrs, gates_ptrs = products_ptr + head // (HEADS // KV) + column * 0, gates_ptr + head + column * 0
        # all lanes have y; the first of each column writes it, from where it is
        lanes = tl.arange(0, LANES)[None, :, None]
        places = column[:, None, :] + lanes * 0
        y_ptrs, written = y_ptr + head * DV + places, (places < DV) & (lanes == 0)
        q, k, v, product, g, beta = load_token(
            q_ptrs, k_ptrs, v_ptrs, products_ptrs, gates_ptrs, start, end, shown, HEADS, KV, BLOCK_D, N
        )
        q, k = q[:, None, :, None], k[:, None, :, None]
        following = load_token(
            q_ptrs, k_ptrs, v_ptrs, products_ptrs, gates_ptrs, start + 1, end, shown, HEADS, KV, BLOCK_D, N
        )
        for number in range(0, end - start):
            token = start + number
            behind = load_token(
                q_ptrs, k_ptrs, v_ptrs, products_ptrs, gates_ptrs, token + 2, end, shown, HEADS, KV, BLOCK_D, N
            )
            q1, k1 = following[0][:, None, :, None], following[1][:, None, :, None]  # reach their threads meanwhile
            state, y = advanced(state, q, k, v, product, g, beta)
            y = tl.broadcast_to(y[:, None, :], (WARPS, LANES, COLUMNS)).to(y_ptr.dtype.element_ty)
            tl.store(y_ptrs + token.to(tl.int64) * N, y, mask=written & (beta != PADDING)[:, None, :])
            _, _, v, product, g, beta = following
            q, k, following = q1, k1, behind
        tl.store(states_ptrs, state, mask=inside)
