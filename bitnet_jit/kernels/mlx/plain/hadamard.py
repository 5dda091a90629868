"""Hadamard rotations in MLX's own operations, as `reference/hadamard.py` has them."""

import math
from collections.abc import Callable

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import Problem

Run = Callable[[mx.array, mx.array | None], mx.array]


def butterflies(x: mx.array, block: int) -> mx.array:
    """Multiply each run of `block` features of x (M, K) float32 by the Hadamard matrix, normalized."""
    distance, y, factor = 1, x, 1 / math.sqrt(block)
    while distance < block:
        pairs = y.reshape(x.size // (2 * distance), 2, distance)
        a, b = pairs[:, 0], pairs[:, 1]
        y = mx.stack([a + b, a - b], axis=1)
        distance *= 2
    return y.reshape(x.shape) * factor


def signed(x: mx.array, signs: mx.array | None) -> mx.array:
    """Return x (M, K) times its signs (K,), if it has any."""
    return x if signs is None else x * signs


def bind_hadamard(problem: Problem, config: Config) -> Run:
    return lambda x, signs: butterflies(signed(x.astype(mx.float32), signs), problem.block).astype(x.dtype)


def bind_inverse_hadamard(problem: Problem, config: Config) -> Run:
    return lambda x, signs: signed(butterflies(x.astype(mx.float32), problem.block), signs).astype(x.dtype)


KERNELS = (
    plain_kernel("hadamard", bind_hadamard),
    plain_kernel("inverse_hadamard", bind_inverse_hadamard),
)
