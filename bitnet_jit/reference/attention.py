"""The contract of `paged_attention` in plain NumPy.

Keys and values of a layer lie in pages of PAGE = 64 tokens: keys (P, KV, D, PAGE), values (P, KV, PAGE, D). Position p
of sequence r lies in page tables[r, p // PAGE], slot p % PAGE. In this order a call

1. rotates queries and keys in float32, each product and sum rounded: a head (x1, x2) of halves becomes
   (x1 cos - x2 sin, x2 cos + x1 sin), with cos and sin of the token's position: the halves of rotary[position];
2. writes keys and values of all its tokens into their pages, rounded to the dtype of the cache;
3. lets every token attend to the positions 0..its own of its sequence, as the pages have them:
   y = sum softmax(q k * D^-0.5) v.  H query heads share KV heads: head h reads h // (H / KV).

Sums run in one order that depends on the position alone, so a token's y is the same bit for bit in any call of one
backend: keys in pieces of PAGE positions, of each m = max score, p = exp(score - m), l = sum p, acc = p v; pieces are
joined one after the other by M' = max(M, m), both l and acc times exp(M - M'), the piece's times exp(m - M');
y = acc / l at the end. Backends may differ from one another in last bits; `Attended.bound` says how far from here.

A cache of int8 has a scale per page, head and position beside keys and values, (P, KV, PAGE) float32 each. Rotated
keys and values are quantized as `quantize_activation` does rows, one token and head a row, when they are written: codes
and scale of a token depend on it alone. Queries are quantized likewise behind their rotation, each token and head by
itself, so that the sum over d is an exact integer:

    score = float32(sum q_code k_code) * (q_scale * D^-0.5) * k_scale
    acc = sum w v_code,  w = p * v_scale, of which a kernel may keep 14 bits: rint(w * (16383 / max w)) per page

What is not finite has codes 0 and the scale NaN, and makes y of the head NaN.

Positions behind a token's own contribute exactly nothing, whatever their slots hold; a NaN stays in its sequence, from
its position on. Values of positions, starts and tables are trusted: they come from who hands out pages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_jit.problem import PAGE, WEIGHT_STEPS
from bitnet_jit.reference.rows import quantize_activation

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
FEW = 4 * 2.0**-24


@dataclass(frozen=True)
class Attended:
    """The result of a call.

    Attributes:
        y: (T, H * D) float64; 0 for padding tokens.
        keys, values: the pages after the call, float32; of int8 their codes.
        bound: (T, H * D) float64: a float32 result is within FEW = 4 * 2^-24 times it.
        key_scale, value_scale: the scales after the call; None where the cache is of floats.
    """

    y: NDArray[np.float64]
    keys: Floats
    values: Floats
    bound: NDArray[np.float64]
    key_scale: Floats | None = None
    value_scale: Floats | None = None


def rotate(x: Floats, table: Floats) -> Floats:
    """Rotate heads (T, heads, D) by the cosines and sines (T, D) of their positions, in float32.

    >>> rotate(np.array([[[1, 2]]], np.float32), np.array([[0, 1]], np.float32)).tolist()
    [[[-2.0, 1.0]]]
    """
    (x1, x2), (cos, sin) = np.split(x, 2, -1), np.split(table[:, None], 2, -1)
    return np.concatenate((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1)


def unrounded(x: Floats) -> Floats:
    """Return x: a cache of float32 rounds nothing."""
    return x


def quantized(x: Floats) -> tuple[Floats, Floats]:
    """Quantize heads (T, heads, D), each by itself: whole numbers (T, heads, D) and scales (T, heads).

    >>> codes, scale = quantized(np.array([[[127, -1]], [[np.inf, 1]]], np.float32))
    >>> codes.tolist(), scale.tolist()
    ([[[127.0, -1.0]], [[0.0, 0.0]]], [[1.0], [nan]])
    """
    codes, scale = quantize_activation(x.reshape(-1, x.shape[-1]))
    return codes.astype(np.float32).reshape(x.shape), scale.reshape(x.shape[:-1])


def paged_attention(
    qkv: Floats,
    keys: Floats,
    values: Floats,
    rotary: Floats,
    positions: Ints,
    starts: Ints,
    tables: Ints,
    rounded: Callable[[Any], Any] = unrounded,
    key_scale: Floats | None = None,
    value_scale: Floats | None = None,
) -> Attended:
    """Attend, with float64 behind what the cache holds.

    Args:
        qkv: (T, (H + 2 KV) D): queries, keys and values of each token, before rotation.
        keys, values: (P, KV, D, PAGE) and (P, KV, PAGE, D).
        rotary, positions: (C, D) and (T,); -1 for a padding token.
        starts: (R + 1,): tokens starts[r]..starts[r + 1] - 1 are of sequence r; those from starts[R] on are padding.
        tables: (R, M): pages of each sequence; entries that no position needs may be anything.
        rounded: rounds float32 to the values that the cache's dtype has.
        key_scale, value_scale: (P, KV, PAGE) beside codes of int8, else None.

    >>> one, pages = np.ones((1, 6), np.float32), np.zeros((1, 1, PAGE, 2), np.float32)  # heads with D = 2
    >>> index = [np.array(a, np.int32) for a in ([0], [0, 1], [[0]])]
    >>> paged_attention(one, pages.swapaxes(2, 3), pages, np.array([[1, 0]], np.float32), *index).y.tolist()
    [[1.0, 1.0]]
    """
    kv_heads, head_dim = keys.shape[1:3]
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    q, k, v = np.split(qkv.reshape(len(qkv), -1, head_dim), (heads, heads + kv_heads), 1)
    tokens = [(t, r) for r in range(len(tables)) for t in range(starts[r], starts[r + 1]) if positions[t] >= 0]
    places, before = [(t, tables[r], positions[t]) for t, r in tokens], Cache(keys, values, key_scale, value_scale)
    with np.errstate(all="ignore"):
        q, k = (rotate(x, rotary[positions]) for x in (q, k))
        cache = before.after(k, v, places, rounded)
        y, bound = np.zeros((2, len(qkv), heads * head_dim))
        for t, r in tokens:
            y[t], bound[t] = attend(q[t], cache, tables[r], positions[t] + 1)
    return Attended(y, cache.keys, cache.values, bound, cache.key_scale, cache.value_scale)


def written(keys: Floats, values: Floats, k: Floats, v: Floats, places: list[Any]) -> tuple[Floats, Floats]:
    """Return pages with k and v (T, KV, D) written: places are (token, pages of its sequence, position)."""
    keys, values = keys.copy(), values.copy()
    for t, table, position in places:
        page, slot = table[position // PAGE], position % PAGE
        keys[page, :, :, slot], values[page, :, slot] = k[t], v[t]
    return keys, values


def written_scales(scales: Floats, new: Floats, places: list[Any]) -> Floats:
    """Return the scales of pages with those of tokens (T, KV) written."""
    scales = scales.copy()
    for t, table, position in places:
        scales[table[position // PAGE], :, position % PAGE] = new[t]
    return scales


@dataclass(frozen=True)
class Cache:
    """Pages as `Attended` has them."""

    keys: Floats
    values: Floats
    key_scale: Floats | None = None
    value_scale: Floats | None = None

    def after(self, k: Floats, v: Floats, places: list[Any], rounded: Callable[[Any], Any]) -> "Cache":
        """Return the pages with k and v (T, KV, D) written, rounded or quantized."""
        if self.key_scale is None or self.value_scale is None:
            return Cache(*written(self.keys, self.values, rounded(k), rounded(v), places))
        (k, k_scale), (v, v_scale) = quantized(k), quantized(v)
        scales = (written_scales(*a, places) for a in ((self.key_scale, k_scale), (self.value_scale, v_scale)))
        return Cache(*written(self.keys, self.values, k, v, places), *scales)

    def of(self, table: Ints, count: int) -> Any:
        """Return keys (KV, D, count), codes or values (KV, count, D) and their scales (KV, count, 1), in float64."""
        pages = table[: -(-count // PAGE)]
        k = np.concatenate(self.keys[pages], -1)[..., :count].astype(np.float64)
        v = np.concatenate(self.values[pages], -2)[:, :count].astype(np.float64)
        if self.key_scale is None or self.value_scale is None:
            return k, v, np.ones((*v.shape[:2], 1))
        k_scale, v_scale = (np.concatenate(a[pages], -1)[:, :count] for a in (self.key_scale, self.value_scale))
        return k * k_scale[:, None], v, v_scale[..., None].astype(np.float64)


def attend(q: Floats, cache: Cache, table: Ints, count: int) -> tuple[Any, Any]:
    """Attend from q (H, D) to the first `count` positions of a sequence; return y (H * D,) and its bound."""
    group, is_int8 = len(q) // cache.keys.shape[1], cache.key_scale is not None
    k, v, v_scale = (a.repeat(group, 0) for a in cache.of(table, count))
    wide = q.astype(np.float64)
    if is_int8:
        codes, q_scale = quantized(q)
        wide = codes.astype(np.float64) * q_scale[:, None]
    wide, scale = wide[:, None], q.shape[1] ** -0.5
    scores, sizes = (wide @ k)[:, 0] * scale, (np.abs(wide) @ np.abs(k))[:, 0] * scale
    p = np.exp(scores - scores.max(-1, keepdims=True))
    w = (p / p.sum(-1, keepdims=True))[:, None] * v_scale[:, None, :, 0]  # (H, 1, count)
    steps = (
        PAGE + -(-count // PAGE) + 16 + 2 * q.shape[1] * sizes.max(-1)
    )  # roundings, of sums and by way of the scores
    bound = (w @ np.abs(v))[:, 0] * steps[:, None]
    if is_int8:
        for first in range(0, count, PAGE):
            here = slice(first, first + PAGE)
            half_step = 0.5 / WEIGHT_STEPS * w[..., here].max(-1)  # (H, 1)
            bound += half_step / FEW * np.abs(v[:, here]).sum(1)
    return (w @ v).ravel(), bound.ravel()
