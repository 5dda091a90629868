"""Attention of tiles of tokens over all their positions: prefill, chunks, and decoding where sequences fill the GPU.

A program has the queries of a group of heads for some tokens of one sequence, whose keys and values they share, and
joins pieces in registers. Keys and values of the call's tokens have been written before (write.py).
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import (
    PAGE,
    attend_masked,
    join,
    load_keys,
    load_values,
    scores_of,
    sums_of,
    weights_of,
)
from bitnet_jit.kernels.triton.attention.tiles import load_halves, positions_of, rotated, tile_of
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait


@triton.jit(do_not_specialize=["T", "R", "M", "TILES"])
def whole_kernel(
    qkv_ptr,  # (T, (HEADS + 2 KV) HEAD_DIM) float
    keys_ptr,  # (P, KV, HEAD_DIM, PAGE) float
    values_ptr,  # (P, KV, PAGE, HEAD_DIM) float
    rotary_ptr,  # (C, HEAD_DIM) float32
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    tables_ptr,  # (R, M) int32
    y_ptr,  # (T, HEADS HEAD_DIM)
    T,
    R,
    M,
    TILES,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    GROUP: tl.constexpr = HEADS // KV
    TOKENS: tl.constexpr = ROWS // GROUP
    TYPE: tl.constexpr = keys_ptr.dtype.element_ty
    tile = TILES - 1 - tl.program_id(0) // KV  # the last tokens of a sequence have the most to do: they begin first
    kv = tl.program_id(0) % KV
    sequence, _, first, stop = tile_of(starts_ptr, tile, T, R, TOKENS, BLOCK_R)
    row = tl.arange(0, ROWS)
    tokens, heads = first + row // GROUP, kv * GROUP + row % GROUP
    there = (row < TOKENS * GROUP) & (tokens < stop)
    positions = positions_of(positions_ptr, tokens, there, sequence, R)
    highest = tl.max(positions, axis=0)
    lowest = tl.min(tl.where(positions < 0, highest, positions), axis=0)
    table_ptr = tables_ptr + sequence.to(tl.int64) * M
    d = tl.arange(0, BLOCK_HALF)[None, :]
    shown = (positions >= 0)[:, None] & (d < HEAD_DIM // 2)
    rotary_ptrs = rotary_ptr + (tl.maximum(positions, 0).to(tl.int64) * HEAD_DIM)[:, None] + d
    cos, sin = load_halves(rotary_ptrs, shown, HEAD_DIM // 2)
    q_ptrs = qkv_ptr + (tokens.to(tl.int64) * ((HEADS + 2 * KV) * HEAD_DIM) + heads * HEAD_DIM)[:, None] + d
    gdc_wait(PDL)
    gdc_launch_dependents(PDL)  # behind the wait: so what begins next finds this call's keys and values written
    x1, x2 = load_halves(q_ptrs, shown, HEAD_DIM // 2)
    q1, q2 = rotated(x1, x2, cos, sin, TYPE)
    keys_ptr += kv * (HEAD_DIM * PAGE)
    values_ptr += kv * (HEAD_DIM * PAGE)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    l = tl.zeros((ROWS,), tl.float32)  # noqa: E741
    acc = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    full = (lowest + 1) // PAGE
    for piece in tl.range(0, full, num_stages=STAGES):
        page = tl.load(table_ptr + piece)
        k1, k2 = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
        v = load_values(values_ptr, page, PAGE, KV, HEAD_DIM, BLOCK_DIM)
        m, p = weights_of(scores_of(q1, q2, k1, k2), SCALE)
        l_i, acc_i = sums_of(p.to(TYPE), v)
        largest, l, acc = join(largest, l, acc, m, l_i, acc_i)  # noqa: E741
    for piece in tl.range(full, (highest + PAGE) // PAGE, num_stages=1):
        page, begin = tl.load(table_ptr + piece), piece * PAGE
        k1, k2 = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
        v = load_values(values_ptr, page, highest + 1 - begin, KV, HEAD_DIM, BLOCK_DIM)
        m, l_i, acc_i = attend_masked(
            q1, q2, k1, k2, v, positions, tokens, positions_ptr, begin, first, stop, SCALE
        )  # fmt: skip
        seen = begin <= positions
        largest_i, joined_l, joined = join(largest, l, acc, m, l_i, acc_i)
        largest = tl.where(seen, largest_i, largest)
        l = tl.where(seen, joined_l, l)  # noqa: E741
        acc = tl.where(seen[:, None], joined, acc)
    l = tl.where(positions >= 0, l, 1.0)  # noqa: E741
    y = tl.div_rn(acc, l[:, None] + tl.zeros_like(acc))
    d = tl.arange(0, BLOCK_DIM)[None, :]
    y_ptrs = y_ptr + (tokens.to(tl.int64) * (HEADS * HEAD_DIM) + heads * HEAD_DIM)[:, None] + d
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=there[:, None] & (d < HEAD_DIM))
