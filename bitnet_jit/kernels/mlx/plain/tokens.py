"""The two ends of a step in MLX's own operations: rows of token ids, and the token with each row's largest logit."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.linear import expand_scale
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import NO_TOKEN, Problem

Run = Callable[..., mx.array]


def inside(ids: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Return which ids are of a table of so many rows, and rows: theirs, and the first for the others."""
    known = mx.logical_and(ids >= 0, ids < count)
    return known, mx.where(known, ids, 0).astype(mx.int32)


def bind_embedding(problem: Problem, config: Config) -> Run:
    dtype = getattr(mx, problem.y_dtype)

    def run(ids: mx.array, table: mx.array, table_scale: mx.array | None) -> mx.array:
        known, rows = inside(ids, table.shape[0])
        y = table[rows] if table_scale is None else table[rows] * table_scale[rows, None]
        return mx.where(known[:, None], y, mx.nan).astype(dtype)

    return run


def bind_packed_embedding(problem: Problem, config: Config) -> Run:
    layout, dtype = registry.get_layout(problem.layout), getattr(mx, problem.y_dtype)
    sizes = problem.out_features, problem.in_features

    def run(ids: mx.array, w_packed: mx.array, w_scale: mx.array) -> mx.array:
        known, rows = inside(ids, problem.out_features)
        w_q = layout.format.unpack_unchecked(layout.to_canonical(w_packed, *sizes)[rows], problem.in_features)
        scale = w_scale[rows] if w_scale.ndim else w_scale
        y = w_q * expand_scale(scale, problem.in_features, problem.group_size)
        return mx.where(known[:, None], y, mx.nan).astype(dtype)

    return run


def first_largest(logits: mx.array) -> mx.array:
    """Return the first largest of each row of logits (M, N), with NaN above any number: (M,) int64."""
    if not logits.size:
        return mx.zeros(logits.shape[:1], dtype=mx.int64)
    lacking = mx.isnan(logits)
    numbers = mx.argmax(mx.where(lacking, -mx.inf, logits), axis=-1)
    tokens = mx.where(mx.any(lacking, axis=-1), mx.argmax(lacking.astype(mx.int32), axis=-1), numbers)
    return tokens.astype(mx.int64)


def bind_greedy(problem: Problem, config: Config) -> Callable[..., tuple[Any, ...]]:
    def run(logits: mx.array, next_tokens: mx.array, next_positions: mx.array | None) -> tuple[mx.array, ...]:
        tokens = first_largest(logits)
        largest = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        code = mx.where(mx.isfinite(largest), tokens, NO_TOKEN)
        if next_positions is None:
            return largest, code, tokens
        return largest, code, tokens, next_positions + (next_positions >= 0).astype(mx.int32)

    return run


KERNELS = (
    plain_kernel("embedding", bind_embedding),
    plain_kernel("packed_embedding", bind_packed_embedding),
    plain_kernel("greedy", bind_greedy),
)
