"""`paged_attention` in MLX's own operations: slow, and the same bits for a token whatever else is in its call.

Sums over d and over the keys of a page are chains of operations on whole arrays, since MLX's products and sums take an
order that depends on shapes. Sums of codes of an int8 cache are whole numbers below 2^24: exact in any order.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.exponential import exp
from bitnet_jit.kernels.mlx.plain.norm import quantize
from bitnet_jit.kernels.mlx.plain.products import times
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import PAGE, WEIGHT_STEPS, Problem

CHUNK_ELEMENTS = 2**24  # of scores and of products that are held at once
CODE_STEPS = 127


@dataclass(frozen=True)
class Pages:
    """N pages of one sequence, or all pages.

    Attributes:
        keys: (N, KV, D, PAGE).
        values: (N, KV, PAGE, D).
        key_scale, value_scale: (N, KV, PAGE) beside codes of int8, else None.
    """

    keys: mx.array
    values: mx.array
    key_scale: mx.array | None = None
    value_scale: mx.array | None = None

    def arrays(self) -> tuple[mx.array, ...]:
        """Return the arrays that there are, in order."""
        every = (self.keys, self.values, self.key_scale, self.value_scale)
        return tuple(array for array in every if array is not None)

    def of(self, table: mx.array) -> "Pages":
        """Return the pages of a table."""
        return Pages(*(array[table] for array in self.arrays()))


def rotate(x: mx.array, table: mx.array) -> mx.array:
    """Rotate heads x (T, heads, D) float32 by the cosines and sines (T, D) of their positions."""
    (x1, x2), (cos, sin) = mx.split(x, 2, -1), mx.split(table[:, None], 2, -1)
    return mx.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def pages_of(pages: mx.array, axis: int) -> mx.array:
    """Return pages (N, KV, ...) as one run of positions along an axis, float32 (KV, ..., N * PAGE, ...)."""
    return mx.moveaxis(pages.astype(mx.float32), 0, axis - 1).flatten(axis - 1, axis)


def score(q: mx.array, pages: Pages) -> mx.array:
    """Return the scores (T, KV, G, N * PAGE) of q (T, KV, G, D)."""
    k, scale = pages_of(pages.keys, 3), 1 / math.sqrt(q.shape[-1])  # k: (KV, D, N * PAGE)
    if pages.key_scale is not None:
        codes, q_scale = quantize(q, CODE_STEPS)
        factors = (q_scale * scale)[..., None]
        return score_codes(codes, k) * factors * pages_of(pages.key_scale, 2)[:, None]
    q = q * scale
    scores = mx.zeros((*q.shape[:3], k.shape[-1]), dtype=mx.float32)
    for d in range(q.shape[-1]):
        scores = scores + q[..., d, None] * k[:, None, d]
    return scores


def score_codes(codes: mx.array, k: mx.array) -> mx.array:
    """Return the sums (T, KV, G, P) of codes of queries (T, KV, G, D) times those of keys k (KV, D, P)."""
    tokens, kv_heads, group, dim = codes.shape
    rows = mx.transpose(codes, (1, 0, 2, 3)).reshape(kv_heads, tokens * group, dim)
    return mx.transpose(times(rows, k).reshape(kv_heads, tokens, group, -1), (1, 0, 2, 3))


def weigh(p: mx.array, visible: mx.array, pages: Pages) -> mx.array:
    """Return the sums (T, KV, G, N, D) of values by weights p (T, KV, G, N, PAGE), of positions that are visible."""
    v = mx.transpose(pages.values.astype(mx.float32), (1, 2, 0, 3))  # (KV, PAGE, N, D)
    if pages.value_scale is not None:
        return weigh_codes(mx.where(visible, p * mx.moveaxis(pages.value_scale, 0, 1)[:, None], 0.0), v)
    acc = mx.zeros((*p.shape[:-1], v.shape[-1]), dtype=mx.float32)
    for s in range(PAGE):
        acc = acc + mx.where(visible[..., s, None], p[..., s, None] * v[:, s][:, None], 0.0)
    return acc


def weigh_codes(w: mx.array, v: mx.array) -> mx.array:
    """Return the sums (T, KV, G, N, D) of codes v (KV, PAGE, N, D) by weights w, in two digits of seven bits."""
    largest = mx.max(w, axis=-1)  # (T, KV, G, N)
    whole = mx.round(w * (WEIGHT_STEPS / largest)[..., None])
    upper = mx.floor(whole / 128)
    sums = [mx.nan_to_num(weigh_digits(digit, v)) for digit in (upper, whole - 128 * upper)]
    total = (128 * sums[0].astype(mx.int32) + sums[1].astype(mx.int32)).astype(mx.float32)
    return total * (largest / WEIGHT_STEPS)[..., None]


def weigh_digits(w: mx.array, v: mx.array) -> mx.array:
    """Return the sums (T, KV, G, N, D) of codes v (KV, PAGE, N, D) times digits w (T, KV, G, N, PAGE)."""
    tokens, kv_heads, group, count, _ = w.shape
    rows = mx.transpose(w, (1, 3, 0, 2, 4)).reshape(kv_heads, count, tokens * group, PAGE)
    sums = times(rows, mx.transpose(v, (0, 2, 1, 3))).reshape(kv_heads, count, tokens, group, -1)
    return mx.transpose(sums, (2, 0, 3, 1, 4))


def attend(q: mx.array, pages: Pages, positions: mx.array) -> mx.array:
    """Attend from q (T, KV, G, D), rotated, at `positions` (T,) to the pages of a sequence; return (T, KV, G, D)."""
    split = (pages.keys.shape[0], PAGE)
    visible = mx.arange(split[0] * PAGE) <= positions[:, None]
    visible = mx.unflatten(visible[:, None, None], -1, split)  # (T, 1, 1, N, PAGE)
    scores = mx.where(visible, mx.unflatten(score(q, pages), -1, split), -mx.inf)
    maxima = mx.max(scores, axis=-1)  # (T, KV, G, N)
    p = mx.where(visible, exp(scores - maxima[..., None]), 0.0)
    sums = mx.zeros(maxima.shape, dtype=mx.float32)
    for s in range(PAGE):
        sums = sums + p[..., s]
    return join(maxima, sums, weigh(p, visible, pages), positions)


def join(maxima: mx.array, sums: mx.array, acc: mx.array, positions: mx.array) -> mx.array:
    """Join the results of pages (T, KV, G, N) and (T, KV, G, N, D), one after the other; return (T, KV, G, D)."""
    largest, total, y = maxima[..., 0], sums[..., 0], acc[..., 0, :]
    for n in range(1, maxima.shape[-1]):
        here = (positions >= n * PAGE)[:, None, None]
        larger = mx.maximum(largest, maxima[..., n])
        old, new = exp(largest - larger), exp(maxima[..., n] - larger)
        total = mx.where(here, total * old + sums[..., n] * new, total)
        y = mx.where(here[..., None], y * old[..., None] + acc[..., n, :] * new[..., None], y)
        largest = mx.where(here, larger, largest)
    return y / total[..., None]


def attend_in_chunks(q: mx.array, pages: Pages, positions: mx.array) -> mx.array:
    """Attend as `attend` does, with so many tokens at a time that memory is bounded."""
    per_token = pages.keys.shape[0] * q.shape[1] * q.shape[2] * max(PAGE, q.shape[3])
    step = max(1, CHUNK_ELEMENTS // per_token)
    parts = [slice(start, start + step) for start in range(0, q.shape[0], step)]
    return mx.concatenate([attend(q[part], pages, positions[part]) for part in parts])


def after(pages: Pages, k: mx.array, v: mx.array, positions: mx.array, table: mx.array) -> Pages:
    """Return all pages with k and v (T, KV, D) of tokens at `positions` (T,) written into those of a table."""
    places, slots = table[positions // PAGE], positions % PAGE
    keys, values, *scales = (mx.array(array) for array in pages.arrays())
    if scales:
        (k, scales[0][places, :, slots]), (v, scales[1][places, :, slots]) = (quantize(a, CODE_STEPS) for a in (k, v))
    keys[places, :, :, slots] = k.astype(keys.dtype)
    values[places, :, slots] = v.astype(values.dtype)
    return Pages(keys, values, *scales)


def numbers(array: mx.array) -> list[int]:
    """Return the numbers of an array (n,) of integers."""
    values: Any = array.tolist()
    return list(values)


def sequences(positions: mx.array, starts: mx.array) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield each sequence that has tokens in a call: its number, the tokens and their positions."""
    at, bounds = numbers(positions), numbers(starts)
    for sequence, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if tokens := [token for token in range(start, end) if at[token] >= 0]:
            yield sequence, tokens, [at[token] for token in tokens]


@dataclass(frozen=True)
class Part:
    """The tokens of one sequence in a call.

    Attributes:
        tokens: their numbers in the call (T,), and `positions` (T,) in the sequence.
        table: the pages of the sequence up to the last of them.
    """

    tokens: mx.array
    positions: mx.array
    table: mx.array


def parts_of(positions: mx.array, starts: mx.array, tables: mx.array) -> list[Part]:
    """Return the sequences that have tokens in a call; a token at a position below 0 is none."""
    return [
        Part(mx.array(tokens), mx.array(at), tables[sequence, : at[-1] // PAGE + 1])
        for sequence, tokens, at in sequences(positions, starts)
    ]


def written(cache: Pages, qkv: mx.array, rotary: mx.array, parts: Sequence[Part], problem: Problem) -> Pages:
    """Return all pages with the keys, rotated, and the values of a call's tokens written into them."""
    first = problem.heads * problem.head_dim
    for part in parts:
        k, v = mx.split(mx.unflatten(qkv[part.tokens, first:].astype(mx.float32), -1, (-1, problem.head_dim)), 2, 1)
        cache = after(cache, rotate(k, rotary[part.positions]), v, part.positions, part.table)
    return cache


def bind_paged_attention(problem: Problem, config: Config) -> Callable[..., tuple[mx.array, ...]]:
    size = problem.heads * problem.head_dim

    def run(
        qkv: mx.array,
        keys: mx.array,
        values: mx.array,
        rotary: mx.array,
        positions: mx.array,
        starts: mx.array,
        tables: mx.array,
        key_scale: mx.array | None,
        value_scale: mx.array | None,
    ) -> tuple[mx.array, ...]:
        y, parts = mx.zeros((qkv.shape[0], size), dtype=qkv.dtype), parts_of(positions, starts, tables)
        cache = written(Pages(keys, values, key_scale, value_scale), qkv, rotary, parts, problem)
        for part in parts:  # when all of them are written
            q = mx.unflatten(qkv[part.tokens, :size].astype(mx.float32), -1, (-1, problem.head_dim))
            q = mx.unflatten(rotate(q, rotary[part.positions]), 1, (problem.kv_heads, -1))
            y[part.tokens] = attend_in_chunks(q, cache.of(part.table), part.positions).flatten(1).astype(y.dtype)
        return y, *cache.arrays()

    return run


KERNELS = (plain_kernel("paged_attention", bind_paged_attention),)
