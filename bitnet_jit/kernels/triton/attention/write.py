"""Rotate keys and write keys and values of a call's tokens into their pages; a program has tokens of one sequence."""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import PAGE
from bitnet_jit.kernels.triton.attention.tiles import load_halves, positions_of, rotated, tile_of
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait


@triton.jit(do_not_specialize=["T", "R", "M"])
def write_kernel(
    qkv_ptr,  # (T, WIDTH) float
    keys_ptr,  # (P, KV, HEAD_DIM, PAGE) float
    values_ptr,  # (P, KV, PAGE, HEAD_DIM) float
    rotary_ptr,  # (C, HEAD_DIM) float32
    positions_ptr,  # (T,) int32
    starts_ptr,  # (R + 1,) int32
    tables_ptr,  # (R, M) int32
    T,
    R,
    M,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PDL: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    kv, HALF = tl.program_id(0) % KV, HEAD_DIM // 2
    sequence, _, first, stop = tile_of(starts_ptr, tl.program_id(0) // KV, T, R, TOKENS, BLOCK_R)
    tokens = first + tl.arange(0, TOKENS)
    positions = positions_of(positions_ptr, tokens, tokens < stop, sequence, R)
    there = positions >= 0
    positions = tl.maximum(positions, 0)
    pages = tl.load(tables_ptr + sequence.to(tl.int64) * M + positions // PAGE, mask=there, other=0).to(tl.int64)
    gdc_wait(PDL)
    WIDTH: tl.constexpr = (HEADS + 2 * KV) * HEAD_DIM
    TYPE: tl.constexpr = keys_ptr.dtype.element_ty
    rows = qkv_ptr + tokens.to(tl.int64) * WIDTH + (HEADS + kv) * HEAD_DIM
    half, d = tl.arange(0, BLOCK_HALF)[None, :], tl.arange(0, BLOCK_DIM)[None, :]
    rotary_ptrs = rotary_ptr + (positions.to(tl.int64) * HEAD_DIM)[:, None] + half
    x1, x2 = load_halves(rows[:, None] + half, there[:, None] & (half < HALF), HALF)
    cos, sin = load_halves(rotary_ptrs, there[:, None] & (half < HALF), HALF)
    v = tl.load(rows[:, None] + KV * HEAD_DIM + d, mask=there[:, None] & (d < HEAD_DIM), other=0.0)
    k1, k2 = rotated(x1, x2, cos, sin, TYPE)
    begin = (pages * KV + kv) * (HEAD_DIM * PAGE)
    slots = positions % PAGE
    # neighbours but where a page ends: said so that neighbouring threads write them, one by one for want of alignment
    places = tl.max_contiguous(begin + slots, TOKENS)
    key_ptrs = keys_ptr + places[None, :] + tl.arange(0, BLOCK_HALF)[:, None] * PAGE
    halves = there[None, :] & (tl.arange(0, BLOCK_HALF)[:, None] < HALF)
    tl.store(key_ptrs, tl.trans(k1), mask=halves)
    tl.store(key_ptrs + HALF * PAGE, tl.trans(k2), mask=halves)
    value_ptrs = values_ptr + (begin + slots * HEAD_DIM)[:, None] + d
    tl.store(value_ptrs, v.to(TYPE), mask=there[:, None] & (d < HEAD_DIM))
