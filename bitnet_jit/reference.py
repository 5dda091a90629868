"""Every op in plain NumPy, rounding by rounding: the numeric contract of all backends and the oracle of all tests.

Notation: x (M, K) activations, w (N, K) weights, codes x_q and w_q int8, scales float32. A scale always multiplies:
x is about x_q * x_scale, w about w_q * w_scale. Operations are float32 and round once, unless a line says otherwise.

    w_scale = max(mean|w|, 1e-5)                  in float64, rounded once (BitNet b1.58, arXiv 2402.17764, eq. 1-3)
    w_q     = clip(rint(w / w_scale), -1, 1)      rint rounds half to even
    x_q     = clip(rint(x * (127 / max|x|)))      per row, max|x| at least 1e-5
    y       = float32(x_q @ w_q.T) * (x_scale * w_scale), then + bias: each rounded, no fused multiply-add

With scales of groups g of inputs, w_scale (N, G), float32 sums run over g in ascending order, from 0:

    a8    y = (sum of float32(x_q[g] @ w_q[g].T) * w_scale[g]) * x_scale, then + bias
    a8g   y =  sum of float32(x_q[g] @ w_q[g].T) * (x_scale[g] * w_scale[g]), then + bias; each group of x is quantized
          as a row is above: x_scale is (M, G)
    a16   y =  sum over parts of (sum of x * w_q) * w_scale[g], then + bias: see `bit_linear_a16`

So y of a row depends on nothing but that row: not on M, the kernel, its config, the number of threads, or the device.
Numba's and torch's kernels keep that with groups too, and Numba's with float activations (AMX refuses both); Triton's
kernels, and torch's for floats, may differ there in the last bits.
The `*_float64` functions are the same ops where sums of floats may run in any order: they bound a backend's result.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = np.float32
EPS = F32(1e-5)


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


def relu2_mul(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Compute relu(gate)^2 * up, element by element in float32 (the square overflows float16). NaN passes through."""
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.maximum(np.asarray(gate, F32), 0).astype(F32, copy=False)
        return kept * kept * np.asarray(up, F32)


def relu2_mul_norm_quantize(
    gate: ArrayLike, up: ArrayLike, weight: ArrayLike, eps: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Compute the middle of BitNet's feed-forward (arXiv 2504.12285, 2.1): relu(gate)^2 * up, sub-norm, quantize."""
    return rms_norm_quantize(relu2_mul(gate, up), weight, eps)


def silu_mul(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Compute SwiGLU's product (arXiv 2002.05202): gate / (1 + exp(-gate)) * up, element by element in float32."""
    wide: NDArray[np.float32] = np.asarray(gate, F32)
    with np.errstate(over="ignore", invalid="ignore"):
        inverse: NDArray[np.float32] = F32(1) + np.exp(-wide)
        return wide / inverse * np.asarray(up, F32)


def silu_mul_norm_quantize(
    gate: ArrayLike, up: ArrayLike, weight: ArrayLike | None, eps: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Compute the middle of Llama's feed-forward block: silu(gate) * up, a norm if it has a weight, quantize.

    A backend's code may be one off near a half-integer (`codes_agree`), for exponentials differ between backends.
    """
    product = silu_mul(gate, up)
    return quantize_activation(product) if weight is None else rms_norm_quantize(product, weight, eps)


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
