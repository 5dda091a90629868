"""Products of matrices whose rows lie side by side.

Of other operands MLX's product makes copies of its own. On CPUs (0.32.4) such copies were seen in memory that had been
given back: under load, 4 of 30 runs of the tests ended so. Copies by `mx.contiguous` are kept.
"""

import mlx.core as mx


def times(a: mx.array, b: mx.array) -> mx.array:
    """Multiply a (..., M, K) by b (..., K, N)."""
    return mx.contiguous(a) @ mx.contiguous(b)


def times_rows(a: mx.array, b: mx.array) -> mx.array:
    """Multiply a (M, K) by the rows of b (N, K): (M, N)."""
    return mx.contiguous(a) @ mx.contiguous(b).T


def columns_times(a: mx.array, b: mx.array) -> mx.array:
    """Multiply the columns of a (M, N) by b (M, K): (N, K)."""
    return mx.contiguous(a).T @ mx.contiguous(b)
