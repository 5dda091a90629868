"""Attention of few tokens: the pieces of their positions are apart, and a second launch joins them.

Programs of a tile take its pieces in turns. Where there is a program for every piece, its keys and values are on their
way before the kernel ahead has ended: it is the query that this kernel waits for.

Keys and values of the call's own tokens are taken from qkv, by every program that sees them, and the program of the
token's own tile and piece writes them, so that nobody in the call waits for them. That costs a step for each token of
a sequence in the call, which is why calls with many of them take whole.py. The first token of a tile, in decoding its
only one, is loaded beside the query.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.piece import (
    PAGE,
    attend_masked,
    load_keys,
    load_values,
    multiply,
    total_of,
    weights_of,
)
from bitnet_jit.kernels.triton.attention.tiles import (
    load_angles,
    load_heads,
    place_in_head,
    positions_of,
    tile_of,
    turned,
)
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait


@triton.jit
def load_token(
    qkv_ptr, token, there, kv,
    HEADS: tl.constexpr, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Load a token's key, the same with its halves exchanged, and its value in two halves."""
    row = qkv_ptr + tl.cast(token, tl.int64) * ((HEADS + 2 * KV) * HEAD_DIM) + (HEADS + kv) * HEAD_DIM
    d = tl.arange(0, BLOCK_V)
    key, exchanged = load_heads(row, tl.arange(0, 2 * BLOCK_HALF), there, HEAD_DIM, BLOCK_HALF)
    v1 = tl.load(row + KV * HEAD_DIM + d, mask=there & (d < HEAD_DIM), other=0.0)
    v2 = tl.load(row + KV * HEAD_DIM + BLOCK_V + d, mask=there & (d + BLOCK_V < HEAD_DIM), other=0.0)
    return key, exchanged, v1, v2


@triton.jit
def put_token(
    k, v1, v2, key, exchanged, new_v1, new_v2, cos, sin, slot, there, writes, page, keys_ptr, values_ptr,
    KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Put a loaded token, if it is there, into the keys and values of its page, and with `writes` into memory, too."""
    place, inside = place_in_head(tl.arange(0, 2 * BLOCK_HALF), HEAD_DIM, BLOCK_HALF)
    d = tl.arange(0, BLOCK_V)
    new_k = turned(key, exchanged, cos, sin, k.dtype)
    new_v1, new_v2, begin = new_v1.to(v1.dtype), new_v2.to(v1.dtype), page.to(tl.int64) * (KV * HEAD_DIM * PAGE)
    writes = there & writes
    tl.store(keys_ptr + begin + place * PAGE + slot, new_k, mask=writes & inside)
    value_ptrs = values_ptr + begin + slot * HEAD_DIM + d
    tl.store(value_ptrs, new_v1, mask=writes & (d < HEAD_DIM))
    tl.store(value_ptrs + BLOCK_V, new_v2, mask=writes & (d + BLOCK_V < HEAD_DIM))
    here = there & (tl.arange(0, PAGE) == slot)
    k = tl.where(here[None, :], new_k[:, None], k)
    return k, tl.where(here[:, None], new_v1[None, :], v1), tl.where(here[:, None], new_v2[None, :], v2)


@triton.jit
def put_tokens(
    k, v1, v2, piece, start, first, stop, but, page, qkv_ptr, keys_ptr, values_ptr, rotary_ptr, positions_ptr, kv,
    HEADS: tl.constexpr, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Put the tokens from start to stop, but one, into a page's keys and values; the tile's own begin at first."""
    d = tl.arange(0, 2 * BLOCK_HALF)
    for token in tl.range(start, stop, num_stages=1):
        position = tl.load(positions_ptr + token)
        if (position >= piece * PAGE) & (position < (piece + 1) * PAGE) & (token != but):
            key, exchanged, new_v1, new_v2 = load_token(
                qkv_ptr, token, True, kv, HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V
            )
            cos, sin = load_angles(rotary_ptr, position, d, True, HEAD_DIM, BLOCK_HALF)
            k, v1, v2 = put_token(
                k, v1, v2, key, exchanged, new_v1, new_v2, cos, sin, position % PAGE, True, token >= first, page,
                keys_ptr, values_ptr, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
            )  # fmt: skip
    return k, v1, v2


@triton.jit
def store_results(
    m, l, acc1, acc2, piece, tokens, heads, positions, maxima_ptr, totals_ptr, sums_ptr, M,  # noqa: E741
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Store m, l and acc of a piece for the rows that see some of it."""
    place = (tokens.to(tl.int64) * HEADS + heads) * M + piece
    seen, d = positions >= piece * PAGE, tl.arange(0, BLOCK_V)[None, :]
    tl.store(maxima_ptr + place, m, mask=seen)
    tl.store(totals_ptr + place, l, mask=seen)
    ptrs = sums_ptr + (place * HEAD_DIM)[:, None] + d
    tl.store(ptrs, acc1, mask=seen[:, None] & (d < HEAD_DIM))
    tl.store(ptrs + BLOCK_V, acc2, mask=seen[:, None] & (d + BLOCK_V < HEAD_DIM))


@triton.jit(do_not_specialize=["T", "R", "M", "TURNS"])
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
    TURNS,  # programs of a tile and a group of heads
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STAGES: tl.constexpr,  # 0: there is a program for every piece
    PDL: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    GROUP: tl.constexpr = HEADS // KV
    TOKENS: tl.constexpr = ROWS // GROUP
    TYPE: tl.constexpr = keys_ptr.dtype.element_ty
    turn, tile, kv = tl.program_id(0) % TURNS, tl.program_id(0) // TURNS // KV, tl.program_id(0) // TURNS % KV
    sequence, start, first, stop = tile_of(starts_ptr, tile, T, R, TOKENS, BLOCK_R)
    row = tl.arange(0, ROWS)
    tokens, heads = first + row // GROUP, kv * GROUP + row % GROUP
    there = (row < TOKENS * GROUP) & (tokens < stop)
    positions = positions_of(positions_ptr, tokens, there, sequence, R)
    highest = tl.max(positions, axis=0)
    table_ptr = tables_ptr + sequence.to(tl.int64) * M
    keys_ptr += kv * (HEAD_DIM * PAGE)
    values_ptr += kv * (HEAD_DIM * PAGE)
    active = turn * PAGE <= highest
    page = tl.load(table_ptr + turn, mask=active, other=0)
    if STAGES == 0:
        k = load_keys(keys_ptr, page, active, KV, HEAD_DIM, BLOCK_HALF)
        v1, v2 = load_values(values_ptr, page, highest + 1 - turn * PAGE, KV, HEAD_DIM, BLOCK_V)
        first_position = tl.load(positions_ptr + first, mask=active, other=0)
        fresh = active & (first_position // PAGE == turn)
        first_cos, first_sin = load_angles(
            rotary_ptr, first_position, tl.arange(0, 2 * BLOCK_HALF), fresh, HEAD_DIM, BLOCK_HALF
        )
    d, shown = tl.arange(0, 2 * BLOCK_HALF)[None, :], (positions >= 0)[:, None]
    cos, sin = load_angles(rotary_ptr, positions[:, None], d, shown, HEAD_DIM, BLOCK_HALF)
    q_ptrs = qkv_ptr + (tokens.to(tl.int64) * ((HEADS + 2 * KV) * HEAD_DIM) + heads * HEAD_DIM)[:, None]
    if active | (turn == 0):  # the others end at once, and make room; the launch as a whole ends behind the one ahead
        gdc_wait(PDL)
    if active:
        x, x_exchanged = load_heads(q_ptrs, d, shown, HEAD_DIM, BLOCK_HALF)
        if STAGES == 0:
            key, exchanged, new_v1, new_v2 = load_token(
                qkv_ptr, first, fresh, kv, HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V
            )
            k, v1, v2 = put_token(
                k, v1, v2, key, exchanged, new_v1, new_v2, first_cos, first_sin, first_position % PAGE, fresh, True,
                page, keys_ptr, values_ptr, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
            )  # fmt: skip
            k, v1, v2 = put_tokens(
                k, v1, v2, turn, start, first, stop, first, page,
                qkv_ptr, keys_ptr, values_ptr, rotary_ptr, positions_ptr, kv,
                HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
            )  # fmt: skip
            q = turned(x, x_exchanged, cos, sin, TYPE)
            m, l, acc1, acc2 = attend_masked(  # noqa: E741
                q, k, v1, v2, positions, tokens, positions_ptr, turn * PAGE, first, stop, SCALE
            )
            store_results(
                m, l, acc1, acc2, turn, tokens, heads, positions, maxima_ptr, totals_ptr, sums_ptr, M,
                HEADS, HEAD_DIM, BLOCK_V,
            )  # fmt: skip
        else:
            q = turned(x, x_exchanged, cos, sin, TYPE)
            old = tl.maximum(tl.load(positions_ptr + start), 0) // PAGE  # pieces without a token of this call
            for piece in tl.range(turn, old, TURNS, num_stages=STAGES):
                page = tl.load(table_ptr + piece)
                k = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
                v1, v2 = load_values(values_ptr, page, PAGE, KV, HEAD_DIM, BLOCK_V)
                m, p = weights_of(multiply(q, k), SCALE)
                p = p.to(TYPE)
                l, acc1, acc2 = total_of(p), multiply(p, v1), multiply(p, v2)  # noqa: E741
                store_results(
                    m, l, acc1, acc2, piece, tokens, heads, positions, maxima_ptr, totals_ptr, sums_ptr, M,
                    HEADS, HEAD_DIM, BLOCK_V,
                )  # fmt: skip
            for piece in tl.range(
                turn + tl.maximum(old - turn + TURNS - 1, 0) // TURNS * TURNS, highest // PAGE + 1, TURNS, num_stages=1
            ):
                page = tl.load(table_ptr + piece)
                k = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
                v1, v2 = load_values(values_ptr, page, highest + 1 - piece * PAGE, KV, HEAD_DIM, BLOCK_V)
                k, v1, v2 = put_tokens(
                    k, v1, v2, piece, start, first, stop, -1, page,
                    qkv_ptr, keys_ptr, values_ptr, rotary_ptr, positions_ptr, kv,
                    HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
                )  # fmt: skip
                m, l, acc1, acc2 = attend_masked(  # noqa: E741
                    q, k, v1, v2, positions, tokens, positions_ptr, piece * PAGE, first, stop, SCALE
                )
                store_results(
                    m, l, acc1, acc2, piece, tokens, heads, positions, maxima_ptr, totals_ptr, sums_ptr, M,
                    HEADS, HEAD_DIM, BLOCK_V,
                )  # fmt: skip
