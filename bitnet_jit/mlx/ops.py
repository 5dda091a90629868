"""Ops on MLX's arrays, with gradients where layers need them.

A packed weight is in the layout of `LAYOUT`, which `quantize_weight` gives and `lay` makes of a canonical one.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mlx.core as mx

from bitnet_jit.kernels import registry
from bitnet_jit.mlx.calls import call
from bitnet_jit.ops.input_grad import INPUT_GRAD

LAYOUT = "i2/words"
MAX_FUNCTIONS = 1024  # with gradients that are kept


def lay(canonical: mx.array, out_features: int, in_features: int) -> mx.array:
    """Lay a canonical packed weight, uint8 (N, ceil(K / 4)) in i2, as kernels read it; MLX writes no second copy where
    K is a multiple of 128.

    >>> lay(mx.zeros((3, 1), dtype=mx.uint8), 3, 4).shape
    (3, 32)
    """
    laid: mx.array = registry.get_layout(LAYOUT).from_canonical(canonical, out_features, in_features)
    return laid


def quantize_weight(weight: mx.array) -> tuple[mx.array, mx.array]:
    """Quantize a weight (N, K) of floats by its absolute mean.

    Returns:
        The packed weight, uint8 in the layout i2/words, and its scale, float32 ().

    Raises:
        InvalidInput: the weight is no matrix of floats.

    >>> w_packed, w_scale = quantize_weight(mx.array([[2.0, -0.1], [-3.0, 0.9]]))
    >>> w_packed.shape, w_scale.item()
    ((2, 32), 1.5)
    """
    w_packed, w_scale = call("quantize_weight", weight, LAYOUT)
    return w_packed, w_scale


def dequantize_weight(
    w_packed: mx.array, w_scale: mx.array, in_features: int, group_size: int = 0, dtype: mx.Dtype = mx.float32
) -> mx.array:
    """Return the floats of a packed weight, (N, K); arguments as `bit_linear`.

    >>> dequantize_weight(*quantize_weight(mx.array([[2.0, -0.1], [-3.0, 0.9]])), 2).tolist()
    [[1.5, 0.0], [-1.5, 1.5]]
    """
    sizes = (in_features, rows_of(w_packed), LAYOUT, group_size)
    w: mx.array = call("dequantize_weight", w_packed, w_scale, *sizes, dtype)
    return w


def rows_of(w_packed: Any) -> int:
    """Return the outputs of a packed weight; 0 for what is none, which the check refuses."""
    return w_packed.shape[0] if getattr(w_packed, "ndim", 0) else 0


def quantize_activation(x: mx.array) -> tuple[mx.array, mx.array]:
    """Quantize each row of x (..., K) of floats by its absolute maximum: codes int8 (..., K) and scales float32 (...).

    >>> [part.tolist() for part in quantize_activation(mx.array([[1.0, -127.0]]))]
    [[[1, -127]], [1.0]]
    """
    x_q, x_scale = call("quantize_activation", x)
    return x_q, x_scale


def ternary_matmul(x_q: mx.array, w_packed: mx.array, in_features: int) -> mx.array:
    """Multiply codes x_q (..., K) int8 by a packed weight of N outputs: (..., N) int32, exactly."""
    y: mx.array = call("ternary_matmul", x_q, w_packed, in_features, rows_of(w_packed), LAYOUT)
    return y


def quantized_linear(
    x_q: mx.array,
    x_scale: mx.array,
    w_packed: mx.array,
    w_scale: mx.array,
    bias: mx.array | None = None,
    *,
    in_features: int,
    group_size: int = 0,
    dtype: mx.Dtype = mx.float32,
) -> mx.array:
    """Apply a packed layer to codes x_q (..., K) int8 with scales x_scale (...) float32: (..., N) of a dtype.

    The other arguments and errors are those of `bit_linear`; it has no gradients.
    """
    sizes = (in_features, rows_of(w_packed), LAYOUT, group_size)
    y: mx.array = call("quantized_linear", x_q, x_scale, w_packed, w_scale, bias, *sizes, dtype)
    return y


def bit_linear(
    x: mx.array,
    w_packed: mx.array,
    w_scale: mx.array,
    bias: mx.array | None = None,
    *,
    in_features: int,
    group_size: int = 0,
    activation: str = "a8",
) -> mx.array:
    """Apply a packed layer: y = x_q @ w_q.T * (x_scale * w_scale) + bias.

    Gradients flow to x, straight through its quantizer, and to the bias.

    Args:
        x: (..., K) float32, bfloat16 or float16.
        w_packed: uint8 in the layout i2/words (`lay`).
        w_scale: float32 () for the tensor, (N,) for rows or (N, ceil(K / group_size)) for groups.
        bias: (N,) of floats, or None.
        in_features: K, which the packed shape does not tell.
        group_size: inputs per scale where scales are of groups, else 0.
        activation: "a8" quantizes each row of x to int8, "a8g" each group, "a16" computes in floating point.

    Returns:
        (..., N) of x's dtype.

    Raises:
        InvalidInput: an argument has another shape, dtype or value.

    >>> w_packed, w_scale = quantize_weight(mx.array([[1.0, -1.0], [0.0, 1.0]]))
    >>> bit_linear(mx.array([1.0, -1.0]), w_packed, w_scale, in_features=2).tolist()
    [1.5, -0.75]
    """
    layer = (w_packed, w_scale) if bias is None else (w_packed, w_scale, bias)
    options = (in_features, rows_of(w_packed), LAYOUT, group_size, activation)
    y: mx.array = linear_function(options)(x, *layer)
    return y


def run_linear(options: tuple[Any, ...], x: Any, w_packed: Any, w_scale: Any, bias: Any = None) -> Any:
    """Run a packed layer without gradients."""
    return call("bit_linear", x, w_packed, w_scale, bias, *options)


@lru_cache(MAX_FUNCTIONS)
def linear_function(options: tuple[Any, ...]) -> Callable[..., Any]:
    """Return `bit_linear` with gradients: (x, w_packed, w_scale, bias if there is one) -> y."""
    *sizes, _ = options

    @mx.custom_function
    def run(*arrays: Any) -> Any:
        return run_linear(options, *arrays)

    @run.vjp
    def gradients(arrays: Any, dy: Any, _: Any) -> Any:
        x, w_packed, w_scale, *bias = arrays
        dx = call(INPUT_GRAD.spec.name, dy.astype(x.dtype), w_packed, w_scale, *sizes)
        return dx, mx.zeros_like(w_packed), mx.zeros_like(w_scale), *(bias_gradient(dy, b) for b in bias)

    return run


def bias_gradient(dy: mx.array, bias: mx.array) -> mx.array:
    """Return the sum of dy (..., N) over its rows, added up in float32: (N,) of the bias's dtype."""
    return dy.reshape(-1, dy.shape[-1]).astype(mx.float32).sum(axis=0).astype(bias.dtype)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Compute x / sqrt(mean x^2 + eps) * weight over the last dimension, with gradients to both.

    Args:
        x: (..., K) float32, bfloat16 or float16.
        weight: (K,) of floats.
        eps: at least 0.

    Returns:
        (..., K) of x's dtype, computed in float32 and rounded once.

    Raises:
        InvalidInput: an argument has another shape, dtype or value.

    >>> rms_norm(mx.array([3.0, -4.0]), mx.array([1.0, 2.0]), 12.5).tolist()
    [0.6000000238418579, -1.600000023841858]
    """
    y: mx.array = norm_function(eps)(x, weight)
    return y


@lru_cache(MAX_FUNCTIONS)
def norm_function(eps: float) -> Callable[..., Any]:
    """Return `rms_norm` with gradients: (x, weight) -> y."""

    @mx.custom_function
    def run(x: Any, weight: Any) -> Any:
        return call("rms_norm", x, weight, eps)

    @run.vjp
    def gradients(arrays: Any, dy: Any, _: Any) -> Any:
        x, weight = arrays
        return call("rms_norm_gradients", dy.astype(x.dtype), x, weight, eps)

    return run
