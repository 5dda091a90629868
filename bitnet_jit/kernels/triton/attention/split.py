"""Attention of few tokens: a program per piece of their positions, and a second launch that joins the pieces.

Keys and values of the pieces are on their way before the kernel ahead has ended: it is the query that this kernel waits
for. Keys and values of the call's own tokens are taken from qkv, by every program that sees them, and the program of
the token's own piece writes them, so that nobody in the call waits for them. That costs a step for each token of a
sequence in the call, which is why calls with many of them take whole.py.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import PAGE, attend_masked, join, load_keys, load_values
from bitnet_jit.kernels.triton.attention.tiles import load_queries, positions_of, rotated, tile_of
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait

UNROLLED = tl.constexpr(8)  # pieces whose results are on their way together


@triton.jit
def put_token(
    k1, k2, v, token, position, own, page, qkv_ptr, keys_ptr, values_ptr, rotary_ptr, kv,
    HEADS: tl.constexpr, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """Put the keys and values of a call's token into those of its page, and with `own` into memory, too."""
    WIDTH: tl.constexpr = (HEADS + 2 * KV) * HEAD_DIM
    HALF: tl.constexpr = HEAD_DIM // 2
    slot = position % PAGE
    row = qkv_ptr + tl.cast(token, tl.int64) * WIDTH + (HEADS + kv) * HEAD_DIM
    half, d = tl.arange(0, BLOCK_HALF), tl.arange(0, BLOCK_DIM)
    new1, new2 = rotated(row + half, rotary_ptr + tl.cast(position, tl.int64) * HEAD_DIM + half, half < HALF, HALF)
    new1, new2 = new1.to(k1.dtype), new2.to(k1.dtype)
    new_v = tl.load(row + KV * HEAD_DIM + d, mask=d < HEAD_DIM, other=0.0).to(v.dtype)
    begin = page.to(tl.int64) * (KV * HEAD_DIM * PAGE)
    tl.store(keys_ptr + begin + half * PAGE + slot, new1, mask=own & (half < HALF))
    tl.store(keys_ptr + begin + (half + HALF) * PAGE + slot, new2, mask=own & (half < HALF))
    tl.store(values_ptr + begin + slot * HEAD_DIM + d, new_v, mask=own & (d < HEAD_DIM))
    here = tl.arange(0, PAGE) == slot
    k1 = tl.where(here[None, :], new1[:, None], k1)
    k2 = tl.where(here[None, :], new2[:, None], k2)
    return k1, k2, tl.where(here[:, None], new_v[None, :], v)


@triton.jit(do_not_specialize=["T", "R", "M"])
def piece_kernel(
    qkv_ptr,  # (T, (HEADS + 2 KV) HEAD_DIM) float
    keys_ptr,  # (P, KV, HEAD_DIM, PAGE) float
    values_ptr,  # (P, KV, PAGE, HEAD_DIM) float
    rotary_ptr,  # (C, HEAD_DIM) float32
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    tables_ptr,  # (R, M) int32
    maxima_ptr,  # (T, HEADS, M) float32
    totals_ptr,  # (T, HEADS, M) float32
    sums_ptr,  # (T, HEADS, M, HEAD_DIM) float32
    T,
    R,
    M,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PDL: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    GROUP: tl.constexpr = HEADS // KV
    TOKENS: tl.constexpr = ROWS // GROUP
    TYPE: tl.constexpr = keys_ptr.dtype.element_ty
    piece, tile = tl.program_id(0) % M, tl.program_id(0) // M // KV
    kv = tl.program_id(0) // M % KV
    sequence, start, first, stop = tile_of(starts_ptr, tile, T, R, TOKENS, BLOCK_R)
    row, begin = tl.arange(0, ROWS), piece * PAGE
    tokens, heads = first + row // GROUP, kv * GROUP + row % GROUP
    there = (row < TOKENS * GROUP) & (tokens < stop)
    positions = positions_of(positions_ptr, tokens, there, sequence, R)
    highest = tl.max(positions, axis=0)
    active = begin <= highest
    page = tl.load(tables_ptr + sequence.to(tl.int64) * M + piece, mask=active, other=0)
    keys_ptr += kv * (HEAD_DIM * PAGE)
    values_ptr += kv * (HEAD_DIM * PAGE)
    k1, k2 = load_keys(keys_ptr, page, active, KV, HEAD_DIM, BLOCK_HALF)
    v = load_values(values_ptr, page, highest + 1 - begin, KV, HEAD_DIM, BLOCK_DIM)
    gdc_wait(PDL)
    if active:
        q1, q2 = load_queries(
            qkv_ptr, rotary_ptr, tokens, heads, positions, there,
            (HEADS + 2 * KV) * HEAD_DIM, HEAD_DIM, BLOCK_HALF, TYPE,
        )  # fmt: skip
        for token in tl.range(start, stop, num_stages=1):
            position = tl.load(positions_ptr + token)
            if (position >= begin) & (position < begin + PAGE):
                k1, k2, v = put_token(
                    k1, k2, v, token, position, token >= first, page, qkv_ptr, keys_ptr, values_ptr, rotary_ptr, kv,
                    HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_DIM,
                )  # fmt: skip
        m, l, acc = attend_masked(  # noqa: E741
            q1, q2, k1, k2, v, positions, tokens, positions_ptr, begin, first, stop, SCALE
        )
        place = (tokens.to(tl.int64) * HEADS + heads) * M + piece
        seen, d = begin <= positions, tl.arange(0, BLOCK_DIM)[None, :]
        tl.store(maxima_ptr + place, m, mask=seen)
        tl.store(totals_ptr + place, l, mask=seen)
        tl.store(sums_ptr + (place * HEAD_DIM)[:, None] + d, acc, mask=seen[:, None] & (d < HEAD_DIM))


@triton.jit(do_not_specialize=["R", "M"])
def join_kernel(
    maxima_ptr,  # (T, HEADS, M) float32
    totals_ptr,  # (T, HEADS, M) float32
    sums_ptr,  # (T, HEADS, M, HEAD_DIM) float32
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    y_ptr,  # (T, HEADS HEAD_DIM)
    R,
    M,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PDL: tl.constexpr,
):
    token, row = tl.program_id(0) // HEADS, tl.program_id(0).to(tl.int64)
    position = tl.load(positions_ptr + token)
    position = tl.where(token < tl.load(starts_ptr + R), position, -1)
    gdc_wait(PDL)
    gdc_launch_dependents(PDL)  # behind the wait: so what begins next finds this call's keys and values written
    d, one = tl.arange(0, BLOCK_DIM)[None, :], tl.arange(0, 1)
    largest = tl.full((1,), float("-inf"), tl.float32)
    l = tl.zeros((1,), tl.float32)  # noqa: E741
    acc = tl.zeros((1, BLOCK_DIM), tl.float32)
    pieces = (position + PAGE) // PAGE
    for begin in range(0, pieces, UNROLLED):
        ms, ls, accs = (), (), ()
        for n in tl.static_range(UNROLLED):
            there = begin + n < pieces
            place = row * M + begin + n
            ms = ms + (tl.load(maxima_ptr + place + one, mask=there & (one >= 0), other=float("-inf")),)
            ls = ls + (tl.load(totals_ptr + place + one, mask=there & (one >= 0), other=0.0),)
            accs = accs + (tl.load(sums_ptr + place * HEAD_DIM + d, mask=there & (d < HEAD_DIM), other=0.0),)
        for n in tl.static_range(UNROLLED):
            larger, joined_l, joined = join(largest, l, acc, ms[n], ls[n], accs[n])
            there = begin + n < pieces
            largest = tl.where(there, larger, largest)
            l = tl.where(there, joined_l, l)  # noqa: E741
            acc = tl.where(there, joined, acc)
    l = tl.where(position >= 0, l, 1.0)  # noqa: E741
    y = tl.div_rn(acc, l[:, None] + tl.zeros_like(acc))
    tl.store(y_ptr + row * HEAD_DIM + d, y.to(y_ptr.dtype.element_ty), mask=d < HEAD_DIM)
