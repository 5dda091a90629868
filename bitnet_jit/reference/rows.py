"""Activation quantization, RMSNorm and their fusions, as the package's docstring defines them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = np.float32
EPS = F32(1e-5)
GELU_2U, GELU_CUBE = F32(2 * (2 / np.pi) ** 0.5), F32(0.044715)


def quantize_activation(x: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each row to int8 by its absolute maximum; a row with NaN or infinity gets codes 0 and the scale NaN.

    Args:
        x: (M, K) floating point; half types are widened to float32 first.

    Returns:
        x_q (M, K) int8 and x_scale (M,) float32.

    >>> x_q, x_scale = quantize_activation([[1.27, -0.5, 0.005]])
    >>> x_q.tolist(), x_scale.tolist() == [float(F32(1.27) / F32(127))]
    ([[127, -50, 0]], True)
    """
    x = np.asarray(x, F32)
    absmax = np.abs(x).max(axis=1) if x.shape[1] else np.zeros(len(x), F32)
    bad = ~np.isfinite(absmax)
    absmax = np.where(bad, F32(1), np.maximum(absmax, EPS)).astype(F32)
    scaled = np.where(bad[:, None], F32(0), x) * (F32(127) / absmax)[:, None]
    x_scale = np.where(bad, F32(np.nan), absmax / F32(127)).astype(F32)
    return np.clip(np.rint(scaled), -128, 127).astype(np.int8), x_scale


def quantize_activation_groups(x: ArrayLike, group_size: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each group of inputs of each row as `quantize_activation` does a row.

    Args:
        x: (M, K) floating point; half types are widened to float32 first.
        group_size: inputs in a group; the last may be short.

    Returns:
        x_q (M, K) int8 and x_scale (M, ceil(K / group_size)) float32.

    >>> x_q, x_scale = quantize_activation_groups([[1.27, -0.5, 12.7]], 2)
    >>> x_q.tolist(), x_scale.shape
    ([[127, -50, 127]], (1, 2))
    """
    x = np.asarray(x, F32)
    starts = range(0, x.shape[1], group_size)
    groups = [quantize_activation(x[:, start : start + group_size]) for start in starts]
    return np.hstack([x_q for x_q, _ in groups]), np.stack([x_scale for _, x_scale in groups], axis=1)


def rms_norm(x: ArrayLike, weight: ArrayLike, eps: float) -> NDArray[np.float32]:
    """Compute x (M, K) / sqrt(mean x^2 + eps) * weight (K,) in float32 (arXiv 1910.07467); the sum in any order."""
    x = np.asarray(x, F32)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.mean(x * x, axis=1, keepdims=True, dtype=F32) if x.shape[1] else F32(0)
        inverse = (F32(1) / np.sqrt(mean + F32(eps))).astype(F32, copy=False)
        return x * inverse * np.asarray(weight, F32)


def rms_norm_float64(x: ArrayLike, weight: ArrayLike, eps: float) -> NDArray[np.float64]:
    """Compute `rms_norm` in float64, of the float32 input."""
    wide: NDArray[np.float64] = np.asarray(x, F32).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = np.mean(wide * wide, axis=1, keepdims=True) if wide.shape[1] else 0.0
        y: NDArray[np.float64] = wide / np.sqrt(mean + float(F32(eps))) * np.asarray(weight, np.float64)
    return y


def rms_norm_gradients_float64(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, eps: float, absolute: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return dx (M, K) and dw (K,) of `rms_norm` in float64; with `absolute` sums of magnitudes, to bound rounding.

    dx = r (dy w - x r^2 mean(dy w x)), dw = sum over rows of dy x r, with r = 1 / sqrt(mean x^2 + eps).

    >>> [part.tolist() for part in rms_norm_gradients_float64([[1.0, 0.0]], [[1.0, 1.0]], [1.0, 1.0], 0.0)]
    [[[0.5, -0.5]], [1.0, 0.0]]
    """
    dy, x, weight = (np.asarray(a, np.float32).astype(np.float64) for a in (dy, x, weight))
    if absolute:
        dy, x, weight = np.abs(dy), np.abs(x), np.abs(weight)
    r = 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps)
    scaled = dy * weight
    back = x * r**2 * np.mean(scaled * x, axis=1, keepdims=True)
    return r * (scaled + back if absolute else scaled - back), (dy * x * r).sum(0)


def rms_norm_quantize(x: ArrayLike, weight: ArrayLike, eps: float) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Normalize, then quantize; a backend's code may be one off near a half-integer (`codes_agree`)."""
    return quantize_activation(rms_norm(x, weight, eps))


def add_rms_norm(
    x: ArrayLike, delta: ArrayLike, weight: ArrayLike, eps: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Add delta (M, K) to x (M, K), both float32, and return the sums and their norm.

    Sums of half types are rounded to their dtype, and the norm is of the rounded sums.

    >>> [part.tolist() for part in add_rms_norm([[1.0, 2.0]], [[1.0, 0.0]], [1.0, 0.5], 0.0)]
    [[[2.0, 2.0]], [[1.0, 0.5]]]
    """
    total = np.asarray(x, F32) + np.asarray(delta, F32)
    return total, rms_norm(total, weight, eps)


def add_rms_norm_quantize(
    x: ArrayLike, delta: ArrayLike, weight: ArrayLike, eps: float
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
    """Add delta (M, K) to x (M, K), both float32, and return the sums, and codes and scales of their norm.

    Sums of half types are rounded to their dtype, and codes are of the rounded sums.
    """
    total = np.asarray(x, F32) + np.asarray(delta, F32)
    return total, *rms_norm_quantize(total, weight, eps)


def relu2_mul(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Compute relu(gate)^2 * up, element by element in float32 (the square overflows float16). NaN passes through."""
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.maximum(np.asarray(gate, F32), 0).astype(F32, copy=False)
        return kept * kept * np.asarray(up, F32)


def relu2_mul_norm(gate: ArrayLike, up: ArrayLike, weight: ArrayLike, eps: float) -> NDArray[np.float32]:
    """Compute relu(gate)^2 * up and its norm in float32, which a kernel rounds once to gate's dtype."""
    return rms_norm(relu2_mul(gate, up), weight, eps)


def relu2_mul_norm_quantize(
    gate: ArrayLike, up: ArrayLike, weight: ArrayLike, eps: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Compute the middle of BitNet's feed-forward (arXiv 2504.12285, 2.1): relu(gate)^2 * up, sub-norm, quantize."""
    return quantize_activation(relu2_mul_norm(gate, up, weight, eps))


def silu_mul(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Compute SwiGLU's product (arXiv 2002.05202): gate / (1 + exp(-gate)) * up, element by element in float32."""
    wide: NDArray[np.float32] = np.asarray(gate, F32)
    with np.errstate(over="ignore", invalid="ignore"):
        inverse: NDArray[np.float32] = F32(1) + np.exp(-wide)
        return wide / inverse * np.asarray(up, F32)


def sigmoid_mul(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Compute Qwen3.5's gated output of attention: 1 / (1 + exp(-gate)) * up, element by element in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        inverse: NDArray[np.float32] = F32(1) + np.exp(-np.asarray(gate, F32))
        return F32(1) / inverse * np.asarray(up, F32)


def gelu_mul(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Compute gelu(gate) * up by tanh (arXiv 1606.08415): gate / (1 + exp(-2 u)) * up, element by element in float32.

    u = sqrt(2 / pi) (gate + 0.044715 gate^3), for (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)).
    """
    wide: NDArray[np.float32] = np.asarray(gate, F32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        power = GELU_2U * (wide + GELU_CUBE * wide * wide * wide)
        inverse: NDArray[np.float32] = F32(1) + np.exp(-power)
        return wide / inverse * np.asarray(up, F32)


def gelu_mul_norm(gate: ArrayLike, up: ArrayLike, weight: ArrayLike | None, eps: float) -> NDArray[np.float32]:
    """Compute gelu(gate) * up, and its norm if it has a weight, in float32, which a kernel rounds once."""
    product = gelu_mul(gate, up)
    return product if weight is None else rms_norm(product, weight, eps)


def sigmoid_mul_norm(gate: ArrayLike, up: ArrayLike, weight: ArrayLike | None, eps: float) -> NDArray[np.float32]:
    """Compute sigmoid(gate) * up, and its norm if it has a weight, in float32, which a kernel rounds once."""
    product = sigmoid_mul(gate, up)
    return product if weight is None else rms_norm(product, weight, eps)


def silu_mul_norm(gate: ArrayLike, up: ArrayLike, weight: ArrayLike | None, eps: float) -> NDArray[np.float32]:
    """Compute silu(gate) * up, and its norm if it has a weight, in float32, which a kernel rounds once."""
    product = silu_mul(gate, up)
    return product if weight is None else rms_norm(product, weight, eps)


def silu_mul_norm_quantize(
    gate: ArrayLike, up: ArrayLike, weight: ArrayLike | None, eps: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Compute the middle of Llama's feed-forward block: silu(gate) * up, a norm if it has a weight, quantize.

    A backend's code may be one off near a half-integer (`codes_agree`), for exponentials differ between backends.
    """
    return quantize_activation(silu_mul_norm(gate, up, weight, eps))


def codes_agree(x_q: NDArray[np.int8], y: NDArray[np.float64], margin: float = 1e-3) -> NDArray[np.bool_]:
    """Return which codes of a fused norm + quantize are right: equal to exact ones, or one off near a half-integer.

    Args:
        x_q: (M, K) int8, a backend's codes.
        y: (M, K) float64, the exact normalized values (finite rows).
        margin: how near y * 127 / absmax must lie to a half-integer for a code to be one off.
    """
    exact = y * (127 / np.maximum(np.abs(y).max(axis=1, keepdims=True, initial=0), float(EPS)))
    low, high = np.clip(np.rint(exact - margin), -128, 127), np.clip(np.rint(exact + margin), -128, 127)
    agree: NDArray[np.bool_] = (x_q >= low) & (x_q <= high)
    return agree
