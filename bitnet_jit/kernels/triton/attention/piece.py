"""A piece of attention, PAGE positions complete in themselves, and how pieces are joined, one after the other.

    c = D^-0.5 log2(e)    s = q k^T    m = max s * c    p = 2^(s c - m), rounded    l = p 1    acc = p v
    M' = max(M, m)    l' = l 2^(M - M') + l_i 2^(m - M')    acc' likewise    y = acc / l

Every sum is one of `tl.dot`, in steps of K that its tile does not change: l is a product with ones, since the order of
`tl.sum` depends on the number of warps. So all kernels here give a token the same bits, however many tokens, heads and
warps a program has. Operands are of the cache's dtype: q and p are rounded to it as k and v are; float32 is multiplied
as it is, on no tensor core.

Queries and keys have their heads' halves at 0 and BLOCK_HALF. Sums have the columns of v in two tiles: one tile of a
piece's sums beside those so far takes more registers than there are.
"""

import triton
import triton.language as tl

from bitnet_jit import problem

PAGE = tl.constexpr(problem.PAGE)
ONES = tl.constexpr(16)  # columns of the product that is l: no dot has fewer
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def load_keys(keys_ptr, page, there, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """Load a page's keys of one head (2 BLOCK_HALF, PAGE); keys_ptr is of page 0 and that head."""
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.arange(0, 2 * BLOCK_HALF)[:, None]
    if BLOCK_HALF == HALF:
        d, there = row, there & (row >= 0)
    else:
        d = row % BLOCK_HALF + row // BLOCK_HALF * HALF
        there = there & (row % BLOCK_HALF < HALF)
    ptrs = keys_ptr + page.to(tl.int64) * (KV * HEAD_DIM * PAGE) + (d * PAGE + tl.arange(0, PAGE)[None, :])
    return tl.load(ptrs, mask=there, other=0.0)


@triton.jit
def load_values(values_ptr, page, count, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_V: tl.constexpr):
    """Load a page's first `count` values of one head, two times (PAGE, BLOCK_V), and 0 for what lies behind them."""
    slot, d = tl.arange(0, PAGE)[:, None], tl.arange(0, BLOCK_V)[None, :]
    ptrs = values_ptr + page.to(tl.int64) * (KV * HEAD_DIM * PAGE) + (slot * HEAD_DIM + d)
    v1 = tl.load(ptrs, mask=(slot < count) & (d < HEAD_DIM), other=0.0)
    return v1, tl.load(ptrs + BLOCK_V, mask=(slot < count) & (d + BLOCK_V < HEAD_DIM), other=0.0)


@triton.jit
def multiply(a, b):
    """Multiply tiles with float32 sums; float32 operands by float32's own products."""
    return tl.dot(a, b, tl.zeros((a.shape[0], b.shape[1]), tl.float32), input_precision="ieee")


@triton.jit
def weights_of(s, SCALE: tl.constexpr):
    """Return a piece's largest score by row, -inf where none is visible, and p = 2^(s SCALE - m); NaN stays in p."""
    m = tl.max(s, axis=1) * SCALE
    base = tl.where(m == float("-inf"), 0.0, m)
    return m, tl.exp2(tl.fma(s, tl.full(s.shape, SCALE, tl.float32), tl.zeros_like(s) - base[:, None]))


@triton.jit
def total_of(p):
    """Return l (rows,) of p (rows, PAGE)."""
    ones = tl.full((PAGE, ONES), 1.0, tl.float32).to(p.dtype)
    return tl.max(multiply(p, ones), axis=1)


@triton.jit
def lone_sums(acc, p, v, tokens, positions_ptr, first_position, first, stop):
    """Return acc where a value is not finite: token by token, so that none sees a value behind its own position.

    A product with 0 hides every value but those.
    """
    slot = first_position + tl.arange(0, PAGE)[:, None]
    for token in tl.range(first, stop, num_stages=1):
        seen = tl.where(slot <= tl.load(positions_ptr + token), v, 0.0)
        acc = tl.where((tokens == token)[:, None], multiply(p, seen.to(v.dtype)), acc)
    return acc


@triton.jit
def largest_bits(v):
    """Return the bits of the largest magnitude of v; infinity and NaN are the largest."""
    return tl.max(tl.max(v.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1), axis=0)


@triton.jit
def attend_masked(q, k, v1, v2, positions, tokens, positions_ptr, first_position, first, stop, SCALE: tl.constexpr):
    """Return m, l and both tiles of acc of a piece of which rows see what is not behind their position."""
    column = first_position + tl.arange(0, PAGE)[None, :]
    m, p = weights_of(tl.where(column <= positions[:, None], multiply(q, k), float("-inf")), SCALE)
    p = p.to(v1.dtype)
    l, acc1, acc2 = total_of(p), multiply(p, v1), multiply(p, v2)  # noqa: E741
    if stop - first > 1:  # noqa: SIM102 - Triton knows no short circuit
        if tl.maximum(largest_bits(v1), largest_bits(v2)) >= INFINITY_BITS:
            acc1 = lone_sums(acc1, p, v1, tokens, positions_ptr, first_position, first, stop)
            acc2 = lone_sums(acc2, p, v2, tokens, positions_ptr, first_position, first, stop)
    return m, l, acc1, acc2


@triton.jit
def fades(M, m):
    """Return max(M, m), and the factors of the state so far and of the piece."""
    largest = tl.maximum(M, m)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    return largest, tl.exp2(M - base), tl.exp2(m - base)


@triton.jit
def joined(state, piece, old, new):
    """Return l or acc of the pieces so far with one more's."""
    return tl.fma(piece, new + tl.zeros_like(piece), state * old)
