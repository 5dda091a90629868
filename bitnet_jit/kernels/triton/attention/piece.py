"""A piece of attention, PAGE positions complete in themselves, and how pieces are joined, one after the other.

    s = q k^T    m = max s * c    p = 2^(s c - m), rounded to the cache's dtype    l = p 1    acc = p v    c = D^-0.5 log2(e)
    M' = max(M, m)    l' = l 2^(M - M') + l_i 2^(m - M')    acc' likewise    y = acc / l

Every sum is one of `tl.dot`, in steps of K that its tile does not change: l is a product with ones, since the order of
`tl.sum` depends on the number of warps. So all kernels here give a token the same bits, however many tokens, heads and
warps a program has. Operands are of the cache's dtype: q and p are rounded to it as k and v are; float32 is multiplied
as it is, on no tensor core.
"""

import triton
import triton.language as tl

from bitnet_jit import problem

PAGE = tl.constexpr(problem.PAGE)
ONES = tl.constexpr(16)  # columns of the product that is l: no dot has fewer
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def load_keys(keys_ptr, page, there, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """Load a page's keys of one head as two halves (BLOCK_HALF, PAGE); keys_ptr is of page 0 and that head."""
    HALF: tl.constexpr = HEAD_DIM // 2
    d = tl.arange(0, BLOCK_HALF)[:, None]
    ptrs = keys_ptr + page.to(tl.int64) * (KV * HEAD_DIM * PAGE) + (d * PAGE + tl.arange(0, PAGE)[None, :])
    if BLOCK_HALF == HALF:
        there = there & (d >= 0)
    else:
        there = there & (d < HALF)
    k1 = tl.load(ptrs, mask=there, other=0.0)
    k2 = tl.load(ptrs + HALF * PAGE, mask=there, other=0.0)
    return k1, k2


@triton.jit
def load_values(values_ptr, page, count, KV: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Load a page's first `count` values of one head (PAGE, BLOCK_DIM), and 0 behind them, whatever lies there."""
    slot, d = tl.arange(0, PAGE)[:, None], tl.arange(0, BLOCK_DIM)[None, :]
    there = (slot < count) & (d < HEAD_DIM)
    ptrs = values_ptr + page.to(tl.int64) * (KV * HEAD_DIM * PAGE) + (slot * HEAD_DIM + d)
    return tl.load(ptrs, mask=there, other=0.0)


@triton.jit
def multiply(a, b, acc):
    """Multiply tiles with float32 sums; float32 operands by float32's own products."""
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def scores_of(q1, q2, k1, k2):
    """Return products of queries and keys (rows, PAGE)."""
    s = multiply(q1, k1, tl.zeros((q1.shape[0], PAGE), tl.float32))
    return multiply(q2, k2, s)


@triton.jit
def weights_of(s, SCALE: tl.constexpr):
    """Return a piece's largest score by row, -inf where none is visible, and p = 2^(s SCALE - m); NaN stays in p."""
    m = tl.max(s, axis=1) * SCALE
    base = tl.where(m == float("-inf"), 0.0, m)
    return m, tl.exp2(tl.fma(s, tl.full(s.shape, SCALE, tl.float32), tl.zeros_like(s) - base[:, None]))


@triton.jit
def sums_of(p, v):
    """Return l (rows,) and acc (rows, BLOCK_DIM) of a piece; p and v are of one dtype."""
    ROWS: tl.constexpr = p.shape[0]
    ones = tl.full((PAGE, ONES), 1.0, tl.float32).to(v.dtype)
    l = tl.max(multiply(p, ones, tl.zeros((ROWS, ONES), tl.float32)), axis=1)  # noqa: E741
    return l, multiply(p, v, tl.zeros((ROWS, v.shape[1]), tl.float32))


@triton.jit
def lone_sums(acc, p, v, tokens, positions_ptr, first_position, first, stop):
    """Return acc where a value is not finite: token by token, so that none sees a value behind its own position.

    A product with 0 hides every value but those.
    """
    slot = first_position + tl.arange(0, PAGE)[:, None]
    for token in tl.range(first, stop, num_stages=1):
        seen = tl.where(slot <= tl.load(positions_ptr + token), v, 0.0)
        one = multiply(p, seen.to(v.dtype), tl.zeros((p.shape[0], v.shape[1]), tl.float32))
        acc = tl.where((tokens == token)[:, None], one, acc)
    return acc


@triton.jit
def attend_masked(
    q1, q2, k1, k2, v, positions, tokens, positions_ptr, first_position, first, stop, SCALE: tl.constexpr
):
    """Return m, l, acc of a piece of which rows see what is not behind their position."""
    column = first_position + tl.arange(0, PAGE)[None, :]
    s = tl.where(column <= positions[:, None], scores_of(q1, q2, k1, k2), float("-inf"))
    m, p = weights_of(s, SCALE)
    p = p.to(v.dtype)
    l, acc = sums_of(p, v)  # noqa: E741
    if stop - first > 1:
        bits = v.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        if tl.max(tl.max(bits, axis=1), axis=0) >= INFINITY_BITS:
            acc = lone_sums(acc, p, v, tokens, positions_ptr, first_position, first, stop)
    return m, l, acc


@triton.jit
def join(M, l, acc, m, l_i, acc_i):  # noqa: E741
    """Return the state (M, l, acc) of the pieces so far with one more, m (rows,), l_i (rows,), acc_i (rows, ...)."""
    largest = tl.maximum(M, m)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    old, new = tl.exp2(M - base), tl.exp2(m - base)
    return largest, tl.fma(l_i, new, l * old), tl.fma(acc_i, new[:, None], acc * old[:, None])
