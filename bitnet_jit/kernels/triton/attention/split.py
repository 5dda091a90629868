"""Attention of few tokens: the pieces of their positions are apart, and are joined when all have been computed.

The programs of a tile take its pieces in turns. Where GPUs know clusters, those are one: they wait for each other, and
each joins some columns of the result. Elsewhere a second launch does (joining.py).

Keys and values of the call's own tokens are taken from qkv, by every program that sees them, and the program of the
token's own tile and piece writes them, so that nobody in the call waits for them. That costs a step for each token of
a sequence in the call, which is why calls with many of them take whole.py. The first token of a tile, in decoding its
only one, is loaded beside the query.

Cached keys and values may have been written by the kernel ahead, so before its end they are only fetched into the
second cache, which is the same for all.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.attention.joining import join_pieces
from bitnet_jit.kernels.triton.attention.piece import (
    PAGE,
    attend_masked,
    load_keys,
    load_values,
)
from bitnet_jit.kernels.triton.attention.tiles import (
    load_angles,
    load_heads,
    place_in_head,
    positions_of,
    tile_of,
    turned,
)
from bitnet_jit.kernels.triton.device.cluster import cluster_barrier
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.linear.loads import prefetch


@triton.jit
def prefetch_page(pages_ptr, page, KV: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Fetch the keys or values of one head in a page into the second cache; pages_ptr is of page 0 and that head."""
    BYTES: tl.constexpr = HEAD_DIM * pages_ptr.dtype.element_ty.primitive_bitwidth // 8
    rows = pages_ptr + page.to(tl.int64) * (KV * HEAD_DIM * PAGE) + tl.arange(0, PAGE) * HEAD_DIM
    prefetch(rows, BYTES)


@triton.jit
def load_token(
    qkv_ptr, token, there, kv,
    HEADS: tl.constexpr, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Load a token's key, the same with its halves exchanged, and its value in two halves."""
    row = qkv_ptr + tl.cast(token, tl.int64) * ((HEADS + 2 * KV) * HEAD_DIM) + (HEADS + kv) * HEAD_DIM
    d = tl.arange(0, BLOCK_V)
    k, other = load_heads(row, tl.arange(0, 2 * BLOCK_HALF), there, HEAD_DIM, BLOCK_HALF)
    v1 = tl.load(row + KV * HEAD_DIM + d, mask=there & (d < HEAD_DIM), other=0.0)
    v2 = tl.load(row + KV * HEAD_DIM + BLOCK_V + d, mask=there & (d + BLOCK_V < HEAD_DIM), other=0.0)
    return k, other, v1, v2


@triton.jit
def put_token(
    k, v1, v2, new, other, new_v1, new_v2, cos, sin, slot, there, writes, page, keys_ptr, values_ptr,
    KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Put a loaded token, if it is there, into the keys and values of its page, and with `writes` into memory, too."""
    place, inside = place_in_head(tl.arange(0, 2 * BLOCK_HALF), HEAD_DIM, BLOCK_HALF)
    d = tl.arange(0, BLOCK_V)
    new = turned(new, other, cos, sin, k.dtype)
    new_v1, new_v2, begin = new_v1.to(v1.dtype), new_v2.to(v1.dtype), page.to(tl.int64) * (KV * HEAD_DIM * PAGE)
    writes = there & writes
    tl.store(keys_ptr + begin + place * PAGE + slot, new, mask=writes & inside)
    value_ptrs = values_ptr + begin + slot * HEAD_DIM + d
    tl.store(value_ptrs, new_v1, mask=writes & (d < HEAD_DIM))
    tl.store(value_ptrs + BLOCK_V, new_v2, mask=writes & (d + BLOCK_V < HEAD_DIM))
    here = there & (tl.arange(0, PAGE) == slot)
    k = tl.where(here[None, :], new[:, None], k)
    return k, tl.where(here[:, None], new_v1[None, :], v1), tl.where(here[:, None], new_v2[None, :], v2)


@triton.jit
def put_tokens(
    k, v1, v2, piece, start, first, stop, page, qkv_ptr, keys_ptr, values_ptr, rotary_ptr, positions_ptr,
    kv, HEADS: tl.constexpr, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Put the tokens from start to stop, but the tile's first, into a page's keys and values."""
    start = tl.where(start == first, first + 1, start)
    d = tl.arange(0, 2 * BLOCK_HALF)
    for token in tl.range(start, stop, num_stages=1):
        position = tl.load(positions_ptr + token)
        if (position >= piece * PAGE) & (position < (piece + 1) * PAGE) & (token != first):
            new, other, new_v1, new_v2 = load_token(qkv_ptr, token, True, kv, HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V)
            cos, sin = load_angles(rotary_ptr, position, d, True, HEAD_DIM, BLOCK_HALF)
            k, v1, v2 = put_token(
                k, v1, v2, new, other, new_v1, new_v2, cos, sin, position % PAGE, True, token > first, page,
                keys_ptr, values_ptr, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
            )  # fmt: skip
    return k, v1, v2


@triton.jit
def store_results(
    m, l, acc1, acc2, piece, places, positions, maxima_ptr, totals_ptr, sums_ptr,  # noqa: E741
    HEAD_DIM: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Store m, l and acc of a piece for the rows that see some of it; places are of their first pieces."""
    seen, d, places = positions >= piece * PAGE, tl.arange(0, BLOCK_V)[None, :], places + piece
    tl.store(maxima_ptr + places, m, mask=seen)
    tl.store(totals_ptr + places, l, mask=seen)
    ptrs = sums_ptr + (places * HEAD_DIM)[:, None] + d
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
    y_ptr,  # (T, HEADS HEAD_DIM)
    T,
    R,
    M,
    TURNS,  # programs of a tile and a group of heads, if they are no cluster
    CLUSTER: tl.constexpr,  # programs of a tile and a group of heads that are one; 1: another launch joins the pieces
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    GROUP: tl.constexpr = HEADS // KV
    TOKENS: tl.constexpr = ROWS // GROUP
    TYPE: tl.constexpr = keys_ptr.dtype.element_ty
    turns = CLUSTER if CLUSTER > 1 else TURNS
    turn, tile, kv = tl.program_id(0) % turns, tl.program_id(0) // turns // KV, tl.program_id(0) // turns % KV
    sequence, start, first, stop = tile_of(starts_ptr, tile, T, R, TOKENS, BLOCK_R)
    row = tl.arange(0, ROWS)
    tokens, heads = first + row // GROUP, kv * GROUP + row % GROUP
    there = (row < TOKENS * GROUP) & (tokens < stop)
    positions = positions_of(positions_ptr, tokens, there, sequence, R)
    highest = tl.max(positions, axis=0)
    pieces = (highest + PAGE) // PAGE
    table_ptr = tables_ptr + sequence.to(tl.int64) * M
    keys_ptr += kv * (HEAD_DIM * PAGE)
    values_ptr += kv * (HEAD_DIM * PAGE)
    if PREFETCH:
        for piece in tl.range(turn, pieces, turns, num_stages=1):
            page = tl.load(table_ptr + piece)
            prefetch_page(keys_ptr, page, KV, HEAD_DIM)
            prefetch_page(values_ptr, page, KV, HEAD_DIM)
    used = highest >= 0
    old = tl.load(positions_ptr + start, mask=used, other=0) // PAGE  # pieces without a token of this call
    last = used & ((pieces - 1 - turn) // turns * turns + turn >= old)  # whether this program has others
    first_position = tl.load(positions_ptr + first, mask=last, other=0)
    d, places = tl.arange(0, 2 * BLOCK_HALF), (tokens.to(tl.int64) * HEADS + heads) * M
    first_cos, first_sin = load_angles(rotary_ptr, first_position, d, last, HEAD_DIM, BLOCK_HALF)
    shown = (positions >= 0)[:, None]
    cos, sin = load_angles(rotary_ptr, positions[:, None], d[None, :], shown, HEAD_DIM, BLOCK_HALF)
    q_ptrs = qkv_ptr + (tokens.to(tl.int64) * ((HEADS + 2 * KV) * HEAD_DIM) + heads * HEAD_DIM)[:, None]
    gdc_wait(PDL)
    x, x_other = load_heads(q_ptrs, d[None, :], shown, HEAD_DIM, BLOCK_HALF)
    new, other, new_v1, new_v2 = load_token(qkv_ptr, first, last, kv, HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V)
    q = turned(x, x_other, cos, sin, TYPE)
    for piece in tl.range(turn, pieces, turns, num_stages=1):
        page = tl.load(table_ptr + piece)
        k = load_keys(keys_ptr, page, True, KV, HEAD_DIM, BLOCK_HALF)
        v1, v2 = load_values(values_ptr, page, highest + 1 - piece * PAGE, KV, HEAD_DIM, BLOCK_V)
        if piece >= old:
            k, v1, v2 = put_token(
                k, v1, v2, new, other, new_v1, new_v2, first_cos, first_sin, first_position % PAGE,
                first_position // PAGE == piece, True, page, keys_ptr, values_ptr, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
            )  # fmt: skip
            k, v1, v2 = put_tokens(
                k, v1, v2, piece, start, first, stop, page, qkv_ptr, keys_ptr, values_ptr, rotary_ptr, positions_ptr,
                kv, HEADS, KV, HEAD_DIM, BLOCK_HALF, BLOCK_V,
            )  # fmt: skip
        m, l, acc1, acc2 = attend_masked(  # noqa: E741
            q, k, v1, v2, positions, tokens, positions_ptr, piece * PAGE, first, stop, SCALE
        )
        store_results(
            m, l, acc1, acc2, piece, places, positions, maxima_ptr, totals_ptr, sums_ptr, HEAD_DIM, BLOCK_V
        )
    if CLUSTER > 1:
        cluster_barrier()
        COLUMNS: tl.constexpr = 2 * BLOCK_V // CLUSTER
        columns = turn * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        y = join_pieces(
            (positions + PAGE) // PAGE, pieces, places, columns, maxima_ptr, totals_ptr, sums_ptr, HEAD_DIM
        )
        y_ptrs = y_ptr + ((tokens.to(tl.int64) * HEADS + heads) * HEAD_DIM)[:, None] + columns
        tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=there[:, None] & (columns < HEAD_DIM))
