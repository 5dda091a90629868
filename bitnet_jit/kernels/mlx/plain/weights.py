"""Weights to codes and back, and codes of activations to floats, in MLX's own operations."""

from collections.abc import Callable

import mlx.core as mx

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.mlx.plain.linear import dequantized_chunks
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.problem import EPS, Problem


def absmean(weight: mx.array) -> mx.array:
    """Return the mean of |w| of a weight (N, K), at least EPS: float32 (), summed in float64 and rounded once.

    Apple's GPUs have no float64, so that the CPU sums; their memory is the same.
    """
    with mx.stream(mx.cpu):
        sums = mx.sum(mx.abs(weight.astype(mx.float32)).astype(mx.float64), axis=1)
        return mx.maximum((mx.sum(sums) / weight.size).astype(mx.float32), EPS)


def quantize_weight(weight: mx.array) -> tuple[mx.array, mx.array]:
    """Quantize a weight (N, K) by its absolute mean: codes int8 (N, K), and the scale ()."""
    w_scale = absmean(weight)
    return mx.clip(mx.round(weight.astype(mx.float32) / w_scale), -1, 1).astype(mx.int8), w_scale


def bind_quantize_weight(problem: Problem, config: Config) -> Callable[..., tuple[mx.array, mx.array]]:
    layout = registry.get_layout(problem.layout)

    def run(weight: mx.array) -> tuple[mx.array, mx.array]:
        w_q, w_scale = quantize_weight(weight)
        return layout.from_canonical(layout.format.pack_unchecked(w_q), *weight.shape), w_scale

    return run


def bind_dequantize_weight(problem: Problem, config: Config) -> Callable[..., mx.array]:
    def run(w_packed: mx.array, w_scale: mx.array) -> mx.array:
        w = mx.concatenate([piece for _, piece in dequantized_chunks(w_packed, w_scale, problem)])
        return w.astype(getattr(mx, problem.y_dtype))

    return run


def bind_dequantize_activation(problem: Problem, config: Config) -> Callable[..., mx.array]:
    return lambda x_q, x_scale: (x_q * x_scale[:, None]).astype(getattr(mx, problem.y_dtype))


KERNELS = (
    plain_kernel("quantize_weight", bind_quantize_weight),
    plain_kernel("dequantize_weight", bind_dequantize_weight),
    plain_kernel("dequantize_activation", bind_dequantize_activation),
)
