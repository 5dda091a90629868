"""The output head: float products, and int8 rows times hidden states of 15 bits."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitnet_jit.reference.rows import EPS, F32


def quantize_head(head: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each row of an output head to int8 by its absolute maximum.

    Args:
        head: (V, K) floating point; half types are widened to float32 first.

    Returns:
        Codes (V, K) int8 in -127..127 and scales (V,) float32, max|row| / 127. Rows of zeros have the scale 0; a row
        with NaN or infinity has codes 0 and the scale NaN.

    >>> codes, scale = quantize_head([[1.27, -0.5], [0.0, 0.0]])
    >>> codes.tolist(), scale.tolist() == [float(F32(1.27) / F32(127)), 0.0]
    ([[127, -50], [0, 0]], True)
    """
    head = np.asarray(head, F32)
    scale = (np.abs(head).max(axis=1) / F32(127)).astype(F32)
    bad = ~np.isfinite(scale)
    divisor = np.where(bad | (scale == 0), F32(1), scale)[:, None]
    codes = np.clip(np.rint(np.where(bad[:, None], F32(0), head) / divisor), -127, 127)
    return codes.astype(np.int8), np.where(bad, F32(np.nan), scale)


def quantize_hidden(x: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Quantize each row to 15 bits by its absolute maximum, for a head of int8: codes (M, K) and scales (M,).

    q = rint(x * (16256 / max|x|)), max|x| at least 1e-5, and the scale max|x| / 16256: as `quantize_activation`, with
    128 times the steps. Every code, from -16256 to 16256, is 128 hi + lo with hi = (q + 64) >> 7 in -127..127 and lo in
    -64..63.

    >>> q, x_scale = quantize_hidden([[127.0, -1.0, 0.0]])
    >>> q.tolist(), x_scale.tolist()
    ([[16256, -128, 0]], [0.0078125])
    """
    x = np.asarray(x, F32)
    absmax = np.abs(x).max(axis=1)
    bad = ~np.isfinite(absmax)
    absmax = np.where(bad, F32(1), np.maximum(absmax, EPS)).astype(F32)
    scaled = np.where(bad[:, None], F32(0), x) * (F32(16256) / absmax)[:, None]
    return np.rint(scaled).astype(np.int16), np.where(bad, F32(np.nan), absmax / F32(16256)).astype(F32)


def head_logits(x: ArrayLike, head: NDArray[np.int8], head_scale: ArrayLike) -> NDArray[np.float32]:
    """Multiply x (M, K) by a head of int8 (V, K) with scales (V,) float32: (M, V) float32.

    The sum over K is an exact integer, below 2^38, and is rounded once: float32(sum) * (x_scale * head_scale).

    >>> head_logits([[127.0, 1.0]], np.array([[1, 0], [0, -2]], np.int8), [1.0, 0.5]).tolist()
    [[127.0, -1.0]]
    """
    q, x_scale = quantize_hidden(x)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = (q.astype(np.int64) @ np.asarray(head, np.int64).T).astype(F32)
        return sums * (x_scale[:, None] * np.asarray(head_scale, F32))


def head_logits_float64(x: ArrayLike, head: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logits of a head of floats (V, K), and sum |x| |head|: a backend errs by at most c * eps times that.

    Backends widen x and head to float32 and sum in float32, in an order of their own that is the same for every number
    of rows, so that a row's logits do not depend on its batch.
    """
    x, head = np.asarray(x, np.float64), np.asarray(head, np.float64)
    with np.errstate(invalid="ignore"):
        return x @ head.T, np.abs(x) @ np.abs(head).T
