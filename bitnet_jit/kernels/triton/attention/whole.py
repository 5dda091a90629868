"""Attention of tiles of tokens over all their positions: prefill, chunks, and decoding where sequences fill the GPU.

A program has the queries of a group of heads for some tokens of one sequence, whose keys and values they share, and
joins pieces in registers. Keys and values of the call's tokens have been written before (write.py).
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import (
    PAGE,
    attend_masked,
    fades,
    joined,
    load_keys,
    load_values,
    multiply,
    total_of,
    weights_of,
)
from bitnet_jit.kernels.triton.attention.tiles import load_angles, load_heads, positions_of, tile_of, turned
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
    BLOCK_V: tl.constexpr,
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
    d, shown = tl.arange(0, 2 * BLOCK_HALF)[None, :], (positions >= 0)[:, None]
    cos, sin = load_angles(rotary_ptr, positions[:, None], d, shown, HEAD_DIM, BLOCK_HALF)
    q_ptrs = qkv_ptr + (tokens.to(tl.int64) * ((HEADS + 2 * KV) * HEAD_DIM) + heads * HEAD_DIM)[:, None]
    gdc_wait(PDL)
    gdc_launch_dependents(PDL)  # behind the wait: so what begins next finds this call's keys and values written
    x, exchanged = load_heads(q_ptrs, d, shown, HEAD_DIM, BLOCK_HALF)
    q = turned(x, exchanged, cos, sin, TYPE)
    keys_ptr += kv * (HEAD_DIM * PAGE)
    values_ptr += kv * (HEAD_DIM * PAGE)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    l = tl.zeros((ROWS,), tl.float32)  # noqa: E741
    acc1 = tl.zeros((ROWS, BLOCK_V), tl.float32)
    acc2 = tl.zeros((ROWS, BLOCK_V), tl.float32)
    full = (lowest + 1) // PAGE
    page = tl.load(table_ptr, mask=full > 0, other=0)
    for piece in tl.range(0, full, num_stages=STAGES):  # loads of pages begin a stage later if they wait for the table
        next_page = tl.load(table_ptr + piece + 1, mask=piece + 1 < full, other=0)
        k = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
        v1, v2 = load_values(values_ptr, page, PAGE, KV, HEAD_DIM, BLOCK_V)
        page = next_page
        m, p = weights_of(multiply(q, k), SCALE)
        largest, old, new = fades(largest, m)
        p = p.to(TYPE)
        l = joined(l, total_of(p), old, new)  # noqa: E741
        acc1 = joined(acc1, multiply(p, v1), old[:, None], new[:, None])
        acc2 = joined(acc2, multiply(p, v2), old[:, None], new[:, None])
    for piece in tl.range(full, (highest + PAGE) // PAGE, num_stages=1):
        page, begin = tl.load(table_ptr + piece), piece * PAGE
        k = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
        v1, v2 = load_values(values_ptr, page, highest + 1 - begin, KV, HEAD_DIM, BLOCK_V)
        m, l_i, acc1_i, acc2_i = attend_masked(
            q, k, v1, v2, positions, tokens, positions_ptr, begin, first, stop, SCALE
        )  # fmt: skip
        seen = positions >= begin
        larger, old, new = fades(largest, m)
        largest = tl.where(seen, larger, largest)
        l = tl.where(seen, joined(l, l_i, old, new), l)  # noqa: E741
        acc1 = tl.where(seen[:, None], joined(acc1, acc1_i, old[:, None], new[:, None]), acc1)
        acc2 = tl.where(seen[:, None], joined(acc2, acc2_i, old[:, None], new[:, None]), acc2)
    l = tl.where(positions >= 0, l, 1.0)[:, None] + tl.zeros_like(acc1)  # noqa: E741
    d = tl.arange(0, BLOCK_V)[None, :]
    y_ptrs = y_ptr + (tokens.to(tl.int64) * (HEADS * HEAD_DIM) + heads * HEAD_DIM)[:, None] + d
    y1, y2 = tl.div_rn(acc1, l), tl.div_rn(acc2, l)
    tl.store(y_ptrs, y1.to(y_ptr.dtype.element_ty), mask=there[:, None] & (d < HEAD_DIM))
    tl.store(y_ptrs + BLOCK_V, y2.to(y_ptr.dtype.element_ty), mask=there[:, None] & (d + BLOCK_V < HEAD_DIM))
