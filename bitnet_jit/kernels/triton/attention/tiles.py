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
    """Return a tile's sequence (R: padding), that sequence's first token, the tile's first token, and the last's end."""
    r = tl.arange(0, BLOCK_R)
    begin = tl.load(starts_ptr + r, mask=r <= R, other=T)
    end = tl.load(starts_ptr + r + 1, mask=r < R, other=T)
    tiles = (end - begin + TOKENS - 1) // TOKENS
    after = tl.cumsum(tiles, axis=0)
    here = (after - tiles <= tile) & (tile < after)
    sequence = tl.sum(tl.where(here, r, 0), axis=0)
    start = tl.sum(tl.where(here, begin, 0), axis=0)
    first = tl.sum(tl.where(here, begin + (tile - after + tiles) * TOKENS, 0), axis=0)
    stop = tl.sum(tl.where(here, end, 0), axis=0)
    return sequence, start, first, tl.minimum(stop, first + TOKENS)


@triton.jit
def positions_of(positions_ptr, tokens, there, sequence, R):
    """Load positions of tokens; -1 for padding."""
    return tl.load(positions_ptr + tokens, mask=there & (sequence < R), other=-1)


@triton.jit
def rotated(x_ptrs, rotary_ptrs, there, HALF: tl.constexpr):
    """Load the halves of heads and rotate them in float32; pointers are to the first half of heads and of cosines."""
    x1 = tl.load(x_ptrs, mask=there, other=0.0).to(tl.float32)
    x2 = tl.load(x_ptrs + HALF, mask=there, other=0.0).to(tl.float32)
    cos = tl.load(rotary_ptrs, mask=there, other=0.0)
    sin = tl.load(rotary_ptrs + HALF, mask=there, other=0.0)
    return x1 * cos - x2 * sin, x2 * cos + x1 * sin


@triton.jit
def load_queries(
    qkv_ptr, rotary_ptr, tokens, heads, positions, there,
    WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Load rotated queries, a row for each token and head, as two halves (rows, BLOCK_HALF) of the cache's dtype."""
    HALF: tl.constexpr = HEAD_DIM // 2
    d = tl.arange(0, BLOCK_HALF)[None, :]
    x_ptrs = qkv_ptr + (tokens.to(tl.int64) * WIDTH + heads * HEAD_DIM)[:, None] + d
    rotary_ptrs = rotary_ptr + (tl.maximum(positions, 0).to(tl.int64) * HEAD_DIM)[:, None] + d
    q1, q2 = rotated(x_ptrs, rotary_ptrs, (there & (positions >= 0))[:, None] & (d < HALF), HALF)
    return q1.to(TYPE), q2.to(TYPE)
