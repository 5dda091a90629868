"""Weights and linear layers, as the package's docstring defines them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitnet_jit.reference.rows import EPS, F32, quantize_activation, quantize_activation_groups


def quantize_weight(w: ArrayLike) -> tuple[NDArray[np.int8], np.float32]:
    """Quantize a weight by its absolute mean.

    Args:
        w: (N, K) floating point.

    Returns:
        w_q (N, K) int8 in {-1, 0, 1} and w_scale, a float32 scalar.

    >>> w_q, w_scale = quantize_weight([[2.0, -0.1], [-3.0, 0.9]])
    >>> w_q.tolist(), float(w_scale)
    ([[1, 0], [-1, 1]], 1.5)
    """
    w = np.asarray(w, F32)
    w_scale = max(F32(np.abs(w).astype(np.float64).mean()), EPS) if w.size else EPS
    return np.clip(np.rint(w / w_scale), -1, 1).astype(np.int8), F32(w_scale)


def ternary_matmul(x_q: ArrayLike, w_q: ArrayLike) -> NDArray[np.int32]:
    """Multiply x_q (M, K) int8 by w_q (N, K) int8 transposed: (M, N) int32, exact."""
    return (np.asarray(x_q, np.int64) @ np.asarray(w_q, np.int64).T).astype(np.int32)


def quantized_linear(
    x_q: NDArray[np.int8],
    x_scale: NDArray[np.float32],
    w_q: NDArray[np.int8],
    w_scale: ArrayLike,
    bias: ArrayLike | None = None,
    group_size: int = 0,
) -> NDArray[np.float32]:
    """Apply a linear layer to codes: (M, K) int8 and (M,) float32 -> (M, N) float32.

    Args:
        x_q: (M, K) int8.
        x_scale: (M,) float32, or (M, ceil(K / group_size)) with group scales.
        w_q: (N, K) int8 in {-1, 0, 1}.
        w_scale: () per tensor, (N,) per row, or (N, ceil(K / group_size)) per group of inputs; the last may be short.
        bias: (N,) or None.
        group_size: inputs in a group; used with two-dimensional scales only.
    """
    w_scale = np.asarray(w_scale, F32)
    y = np.zeros((len(x_q), len(w_q)), F32)
    with np.errstate(invalid="ignore", over="ignore"):
        if w_scale.ndim < 2:
            y = ternary_matmul(x_q, w_q).astype(F32) * (x_scale[:, None] * w_scale)
        else:
            for group in range(w_scale.shape[1]):
                part = slice(group * group_size, (group + 1) * group_size)
                scale = w_scale[None, :, group] if x_scale.ndim == 1 else x_scale[:, group, None] * w_scale[:, group]
                y += ternary_matmul(x_q[:, part], w_q[:, part]).astype(F32) * scale
            y = y * x_scale[:, None] if x_scale.ndim == 1 else y
        return y if bias is None else y + np.asarray(bias, F32)


def bit_linear(
    x: ArrayLike,
    w_q: NDArray[np.int8],
    w_scale: ArrayLike,
    bias: ArrayLike | None = None,
    group_size: int = 0,
) -> NDArray[np.float32]:
    """Apply a linear layer to x (M, K) through int8 activations: (M, N) float32; other arguments as `quantized_linear`.

    >>> bit_linear([[1.0, -1.0]], np.array([[1, -1], [0, 1]], np.int8), 0.5, bias=[0.0, 1.0]).tolist()
    [[1.0, 0.5]]
    """
    return quantized_linear(*quantize_activation(x), w_q, w_scale, bias, group_size)


def bit_linear_a8g(
    x: ArrayLike,
    w_q: NDArray[np.int8],
    w_scale: ArrayLike,
    bias: ArrayLike | None = None,
    group_size: int = 0,
) -> NDArray[np.float32]:
    """Apply a linear layer with group scales to x (M, K) in int8 by the same groups; as `bit_linear` otherwise."""
    return quantized_linear(*quantize_activation_groups(x, group_size), w_q, w_scale, bias, group_size)


def bit_linear_a16(
    x: ArrayLike,
    w_q: NDArray[np.int8],
    w_scale: ArrayLike,
    bias: ArrayLike | None = None,
    group_size: int = 0,
    step: int = 16,
) -> NDArray[np.float32]:
    """Apply a linear layer to float x (M, K) in the order of the Numba backend; other arguments as `quantized_linear`.

    A part is the next 160 inputs, or those up to the end of the group. It is summed from 0 by steps, and within a step
    by pairs (a, b) of inputs: sum + (w_a x_a + w_b x_b). Parts are added up, each times the scale of its group; a scale
    of the tensor or the row multiplies the sum of all parts. A step has 16 inputs (i2) or 20 (t5): pairs (k, k + 4) and
    (k + 8, k + 12) for k = 0..3, then (16, 17) and (18, 19); inputs beyond K are 0.
    """
    x, w, w_scale = np.asarray(x, F32), np.asarray(w_q, F32), np.asarray(w_scale, F32)
    order = [pair for k in range(4) for pair in ((k, k + 4), (k + 8, k + 12))]
    order += [(k, k + 1) for k in range(16, step, 2)]
    x, w = (np.pad(array, ((0, 0), (0, -array.shape[1] % step))) for array in (x, w))
    span = group_size if w_scale.ndim == 2 else x.shape[1]
    y = np.zeros((len(x), len(w)), F32)
    with np.errstate(invalid="ignore", over="ignore"):
        for group, start in enumerate(range(0, x.shape[1], span)):
            end = min(start + span, x.shape[1])
            for part in range(start, end, 160):
                total = np.zeros_like(y)
                for first in range(part, min(part + 160, end), step):
                    for a, b in order:
                        of_a, of_b = (x[:, None, first + k] * w[None, :, first + k] for k in (a, b))
                        total = total + (of_a + of_b)
                y = y + (total * w_scale[:, group] if w_scale.ndim == 2 else total)
        y = y if w_scale.ndim == 2 else y * w_scale
        return y if bias is None else y + np.asarray(bias, F32)


def bit_linear_a16_float64(
    x: ArrayLike,
    w_q: NDArray[np.int8],
    w_scale: ArrayLike,
    bias: ArrayLike | None = None,
    group_size: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y of float activations, and sum |x| |w| + |bias|: a backend errs by at most c * eps times that sum."""
    w = np.asarray(w_q, np.float64) * expand_scale(w_scale, w_q.shape, group_size)
    x = np.asarray(x, np.float64)
    offset = np.zeros(len(w)) if bias is None else np.asarray(bias, np.float64)
    with np.errstate(invalid="ignore"):
        return x @ w.T + offset, np.abs(x) @ np.abs(w).T + np.abs(offset)


def expand_scale(w_scale: ArrayLike, shape: tuple[int, ...], group_size: int) -> NDArray[np.float64]:
    """Return a scale of any layout as float64 that broadcasts against w of `shape` (N, K)."""
    w_scale = np.asarray(w_scale, np.float64)
    if w_scale.ndim == 2:
        return np.repeat(w_scale, group_size, axis=1)[:, : shape[1]]
    return w_scale[:, None] if w_scale.ndim == 1 else w_scale
