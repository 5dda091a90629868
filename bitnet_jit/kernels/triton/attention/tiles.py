"""Which tokens a program has, and where they are: tiles of tokens of one sequence, found on the device.

Grids depend on shapes alone, so that a CUDA graph serves every mix of sequences: there are as many tiles as tokens and
sequences could need, and those that nobody needs have no tokens. Tokens behind the last sequence are one sequence more.
"""

import triton
import triton.language as tl


def num_tiles(tokens: int, sequences: int, tokens_of_tile: int) -> int:
    """Return how many tiles any mix of sequences needs at most."""
    return min(tokens, tokens // tokens_of_tile + sequences + 1)


@triton.jit
def tile_of(starts_ptr, tile, T, R, TOKENS: tl.constexpr, BLOCK_R: tl.constexpr):
    """Return a tile's sequence (R: padding), that sequence's first token, the tile's first token, and the last's end.

    Two numbers travel in one sum: every sum over threads costs as much as the arithmetic of a piece.
    """
    if BLOCK_R == 2:  # one sequence, and padding
        begin, end = tl.load(starts_ptr), tl.load(starts_ptr + 1)
        tiles = (end - begin + TOKENS - 1) // TOKENS
        behind = tile >= tiles
        sequence = behind.to(tl.int32)
        start, stop = tl.where(behind, end, begin), tl.where(behind, T, end)
        first = start + (tile - tl.where(behind, tiles, 0)) * TOKENS
    else:
        r = tl.arange(0, BLOCK_R)
        begin = tl.load(starts_ptr + r, mask=r <= R, other=T)
        end = tl.load(starts_ptr + r + 1, mask=r < R, other=T)
        tiles = (end - begin + TOKENS - 1) // TOKENS
        after = tl.cumsum(tiles, axis=0)
        here = (after - tiles <= tile) & (tile < after)
        bounds = tl.sum(tl.where(here, begin.to(tl.int64) << 32 | end, 0), axis=0)
        places = tl.sum(tl.where(here, r.to(tl.int64) << 32 | (tile - after + tiles), 0), axis=0)
        sequence, start, stop = (places >> 32).to(tl.int32), (bounds >> 32).to(tl.int32), bounds.to(tl.int32)
        first = start + places.to(tl.int32) * TOKENS
    return sequence, start, first, tl.minimum(stop, first + TOKENS)


@triton.jit
def positions_of(positions_ptr, tokens, there, sequence, R):
    """Load positions of tokens; -1 for padding."""
    return tl.load(positions_ptr + tokens, mask=there & (sequence < R), other=-1)


@triton.jit
def place_in_head(d, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """Return where number d of 2 BLOCK_HALF lies in a head, and whether it does: halves begin at 0 and BLOCK_HALF."""
    HALF: tl.constexpr = HEAD_DIM // 2
    place, there = d, d >= 0
    if BLOCK_HALF != HALF:
        place, there = d % BLOCK_HALF + d // BLOCK_HALF * HALF, d % BLOCK_HALF < HALF
    return place, there


@triton.jit
def load_heads(ptrs, d, there, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """Load numbers d of heads, and those of the other halves; pointers are to the first of each head.

    Loaded twice instead of joined: where tiles are joined, Triton lets small products take K in another order.
    """
    place, inside = place_in_head(d, HEAD_DIM, BLOCK_HALF)
    other, _ = place_in_head((d + BLOCK_HALF) % (2 * BLOCK_HALF), HEAD_DIM, BLOCK_HALF)
    return tl.load(ptrs + place, mask=there & inside, other=0.0), tl.load(ptrs + other, mask=there & inside, other=0.0)


@triton.jit
def load_angles(rotary_ptr, positions, d, there, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """Load the cosines and sines of positions for numbers d of heads, the sines' signs turned in the first half."""
    half = d % BLOCK_HALF
    ptrs, there = rotary_ptr + tl.maximum(positions, 0).to(tl.int64) * HEAD_DIM + half, there & (half < HEAD_DIM // 2)
    cos, sin = load_halves(ptrs, there, HEAD_DIM // 2)
    return cos, tl.where(d < BLOCK_HALF, -sin, sin)


@triton.jit
def turned(x, exchanged, cos, sin, TYPE: tl.constexpr):
    """Rotate heads in float32 by angles of load_angles; return them as TYPE. `exchanged` is x by halves."""
    return (x.to(tl.float32) * cos + exchanged.to(tl.float32) * sin).to(TYPE)


@triton.jit
def load_halves(ptrs, there, HALF: tl.constexpr):
    """Load both halves of heads, or cosines and sines; pointers are to the first half."""
    return tl.load(ptrs, mask=there, other=0.0), tl.load(ptrs + HALF, mask=there, other=0.0)


@triton.jit
def rotated(x1, x2, cos, sin, TYPE: tl.constexpr):
    """Rotate the halves of heads in float32; return them as TYPE."""
    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    return (x1 * cos - x2 * sin).to(TYPE), (x2 * cos + x1 * sin).to(TYPE)
