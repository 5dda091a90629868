"""Row-wise ops in MLX's own operations, as `reference.py` has them: activation quantization, norms, their fusions."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import EPS, Problem

Gate = Callable[[mx.array, mx.array], mx.array]
GELU_2U, GELU_CUBE = 2 * (2 / 3.141592653589793) ** 0.5, 0.044715


def bounded_maximum(x: mx.array) -> tuple[mx.array, mx.array]:
    """Return the absolute maximum of x (..., K), at least EPS, and whether it is not finite: 1 and True, (...) each."""
    absmax = mx.max(mx.abs(x), axis=-1)
    bad = mx.logical_not(mx.isfinite(absmax))
    return mx.where(bad, 1.0, mx.maximum(absmax, EPS)), bad


def quantize(x: mx.array, steps: int) -> tuple[mx.array, mx.array]:
    """Quantize rows x (..., K) float32 to so many steps up and down: whole numbers in float32, and scales (...).

    A row with NaN or infinity has codes 0 and the scale NaN.
    """
    absmax, bad = bounded_maximum(x)
    codes = mx.round(mx.where(bad[..., None], 0.0, x) * (steps / absmax)[..., None])
    return codes, mx.where(bad, mx.nan, absmax / steps)


def quantize_rows(x: mx.array) -> tuple[mx.array, mx.array]:
    """Quantize x (M, K) float32 to x_q int8, x_scale (M,) float32."""
    codes, scale = quantize(x, 127)
    return mx.clip(codes, -128, 127).astype(mx.int8), scale


def norm_rows(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Normalize x (..., K) float32 by weight (K,) to (..., K) float32."""
    mean = mx.mean(x * x, axis=-1, keepdims=True)
    return x * (1.0 / mx.sqrt(mean + eps)) * weight.astype(mx.float32)


def relu2_mul(gate: mx.array, up: mx.array) -> mx.array:
    """Return relu(gate)^2 * up (..., K) in float32."""
    kept = mx.maximum(gate.astype(mx.float32), 0.0)
    return kept * kept * up.astype(mx.float32)


def silu_mul(gate: mx.array, up: mx.array) -> mx.array:
    """Return silu(gate) * up (..., K) in float32."""
    wide = gate.astype(mx.float32)
    return wide / (1.0 + mx.exp(-wide)) * up.astype(mx.float32)


def sigmoid_mul(gate: mx.array, up: mx.array) -> mx.array:
    """Return sigmoid(gate) * up (..., K) in float32."""
    return 1.0 / (1.0 + mx.exp(-gate.astype(mx.float32))) * up.astype(mx.float32)


def gelu_mul(gate: mx.array, up: mx.array) -> mx.array:
    """Return gelu(gate) * up (..., K) by tanh in float32."""
    wide = gate.astype(mx.float32)
    power = GELU_2U * (wide + GELU_CUBE * wide * wide * wide)
    return wide / (1.0 + mx.exp(-power)) * up.astype(mx.float32)


def norm_gradients(dy: mx.array, x: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, mx.array]:
    """Return dx (M, K) and dw (K,) of x r w with r = 1 / sqrt(mean x^2 + eps), summed in float32."""
    wide, dy = x.astype(mx.float32), dy.astype(mx.float32)
    scaled = dy * weight.astype(mx.float32)
    r = 1.0 / mx.sqrt(mx.mean(wide * wide, axis=-1, keepdims=True) + eps)
    dx = r * (scaled - wide * (r * r) * mx.mean(scaled * wide, axis=-1, keepdims=True))
    return dx.astype(x.dtype), mx.sum(dy * wide * r, axis=0).astype(weight.dtype)


def bind_quantize_activation(problem: Problem, config: Config) -> Callable[..., Any]:
    return lambda x: quantize_rows(x.astype(mx.float32))


def bind_rms_norm(problem: Problem, config: Config) -> Callable[..., Any]:
    return lambda x, weight, eps: norm_rows(x.astype(mx.float32), weight, eps).astype(x.dtype)


def bind_rms_norm_gradients(problem: Problem, config: Config) -> Callable[..., Any]:
    return norm_gradients


def bind_rms_norm_quantize(problem: Problem, config: Config) -> Callable[..., Any]:
    return lambda x, weight, eps: quantize_rows(norm_rows(x.astype(mx.float32), weight, eps))


def bind_add_rms_norm(problem: Problem, config: Config) -> Callable[..., Any]:
    def run(x: mx.array, delta: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, ...]:
        total = x + delta
        return total, norm_rows(total.astype(mx.float32), weight, eps).astype(x.dtype)

    return run


def bind_add_rms_norm_quantize(problem: Problem, config: Config) -> Callable[..., Any]:
    def run(x: mx.array, delta: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, ...]:
        total = x + delta
        return total, *quantize_rows(norm_rows(total.astype(mx.float32), weight, eps))

    return run


def gated(multiply: Gate, gate: mx.array, up: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """Multiply gate and up, and normalize the product if there is a weight; in float32."""
    product = multiply(gate, up)
    return product if weight is None else norm_rows(product, weight, eps)


def gated_norm(multiply: Gate) -> Callable[[Problem, Config], Callable[..., mx.array]]:
    """Return what binds the norm of a gated product."""

    def run(gate: mx.array, up: mx.array, weight: mx.array | None, eps: float) -> mx.array:
        return gated(multiply, gate, up, weight, eps).astype(gate.dtype)

    return lambda problem, config: run


def gated_norm_quantize(multiply: Gate) -> Callable[[Problem, Config], Callable[..., tuple[mx.array, mx.array]]]:
    """Return what binds the codes of the norm of a gated product."""
    return lambda problem, config: lambda *values: quantize_rows(gated(multiply, *values))


KERNELS = (
    plain_kernel("quantize_activation", bind_quantize_activation),
    plain_kernel("rms_norm", bind_rms_norm),
    plain_kernel("rms_norm_gradients", bind_rms_norm_gradients),
    plain_kernel("rms_norm_quantize", bind_rms_norm_quantize),
    plain_kernel("add_rms_norm", bind_add_rms_norm),
    plain_kernel("add_rms_norm_quantize", bind_add_rms_norm_quantize),
    plain_kernel("relu2_mul_norm", gated_norm(relu2_mul)),
    plain_kernel("silu_mul_norm", gated_norm(silu_mul)),
    plain_kernel("sigmoid_mul_norm", gated_norm(sigmoid_mul)),
    plain_kernel("gelu_mul_norm", gated_norm(gelu_mul)),
    plain_kernel("relu2_mul_norm_quantize", gated_norm_quantize(relu2_mul)),
    plain_kernel("silu_mul_norm_quantize", gated_norm_quantize(silu_mul)),
)
