"""The output head in MLX's own operations: floats widened to float32 piece by piece; int8 by exact sums in float32.

Products of int8 codes are whole numbers of at most 127 * 128, so sums of 1,024 of them are exact in float32.
"""

from collections.abc import Callable, Iterator

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.norm import quantize
from bitnet_jit.kernels.mlx.plain.products import times_rows
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import Problem

CHUNK_ELEMENTS = 2**24  # of the head, widened at a time
EXACT_INPUTS = 1024  # 127 * 128 * 1024 < 2^24
STEPS = 127 * 128  # of a code of x, in either direction


def pieces_of(head: mx.array) -> Iterator[mx.array]:
    """Yield some rows of a head (V, K) at a time, widened to float32."""
    step = max(1, CHUNK_ELEMENTS // head.shape[1])
    return (head[start : start + step].astype(mx.float32) for start in range(0, head.shape[0], step))


def exact_sums(codes: mx.array, head: mx.array) -> mx.array:
    """Multiply codes (M, K) by a piece of the head (n, K), both whole numbers in float32: (M, n) int64, exactly."""
    sums = mx.zeros((codes.shape[0], head.shape[0]), dtype=mx.int64)
    for start in range(0, codes.shape[1], EXACT_INPUTS):
        part = slice(start, start + EXACT_INPUTS)
        sums = sums + times_rows(codes[:, part], head[:, part]).astype(mx.int64)
    return sums


def float_logits(x: mx.array, head: mx.array, head_scale: None) -> mx.array:
    """Multiply x (M, K) by a head (V, K) of floats: (M, V) float32."""
    wide = x.astype(mx.float32)
    return mx.concatenate([times_rows(wide, piece) for piece in pieces_of(head)], axis=1)


def int8_logits(x: mx.array, head: mx.array, head_scale: mx.array) -> mx.array:
    """Multiply x (M, K) by a head (V, K) of int8 with a scale per row: (M, V) float32."""
    codes, x_scale = quantize(x.astype(mx.float32), STEPS)
    upper = mx.floor((codes + 64) / 128)
    lower = codes - 128 * upper
    pieces = [(128 * exact_sums(upper, piece) + exact_sums(lower, piece)) for piece in pieces_of(head)]
    return mx.concatenate(pieces, axis=1).astype(mx.float32) * (x_scale[:, None] * head_scale)


def bind_head_logits(problem: Problem, config: Config) -> Callable[..., mx.array]:
    return int8_logits if problem.w_dtype == "int8" else float_logits


KERNELS = (plain_kernel("head_logits", bind_head_logits),)
