"""MLX's product of quantized weights as kernels of ours: a code c counts s c - s, which is what a ternary weight is.

`mx.quantized_matmul` reads i2/words as 32-bit words. With scales 1 and biases -1 sums of codes are whole numbers, and
float32 adds them up exactly; the scales of a tensor or of rows multiply the sums. Scales of groups are handed over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.metal.layout import padded_inputs
from bitnet_jit.kernels.metal.linear.refusals import (
    all_of,
    codes_refused,
    codes_unsupported_reason,
    floats_refused,
    layout_unsupported_reason,
)
from bitnet_jit.kernels.mlx.language import language
from bitnet_jit.kernels.mlx.plain.linear import finished
from bitnet_jit.kernels.mlx.plain.norm import quantize_rows
from bitnet_jit.problem import Problem

BITS = 2
GROUPS = (128, 64, 32)  # inputs that share a scale, as MLX has kernels for them; the likeliest best first
MAX_ONES = 64  # shapes whose scales of 1 are kept
Run = Callable[..., mx.array]


@dataclass(frozen=True)
class Config:
    """How MLX's product takes K.

    Attributes:
        group_size: inputs at a time, which share a scale.
    """

    group_size: int


@lru_cache(MAX_ONES)
def ones(out_features: int, groups: int) -> tuple[mx.array, mx.array]:
    """Return scales 1 and biases -1 (N, groups) float32."""
    scales = mx.ones((out_features, groups), dtype=mx.float32)
    biases = -scales
    mx.eval(scales, biases)
    return scales, biases


def product(x: mx.array, w_packed: mx.array, scales: mx.array, biases: mx.array, group_size: int) -> mx.array:
    """Multiply x (M, K) by the weight with scales and biases (N, groups): (M, N) float32."""
    if not x.shape[0]:  # on which MLX's product divides by zero
        return mx.zeros((0, w_packed.shape[0]), dtype=mx.float32)
    filled = mx.contiguous(mx.pad(x.astype(mx.float32), [(0, 0), (0, padded_inputs(x.shape[1]) - x.shape[1])]))
    words = mx.contiguous(w_packed).view(mx.uint32)
    return mx.quantized_matmul(filled, words, scales, biases, transpose=True, group_size=group_size, bits=BITS)


def multiply(x: mx.array, w_packed: mx.array, w_scale: mx.array | None, problem: Problem, size: int) -> mx.array:
    """Multiply x (M, K), codes or floats, by the weight and its scales: (M, N) float32."""
    groups = padded_inputs(problem.in_features) // size
    if w_scale is None or w_scale.ndim < 2:
        y = product(x, w_packed, *ones(problem.out_features, groups), size)
        return y if w_scale is None else y * w_scale
    scales = mx.pad(w_scale, [(0, 0), (0, groups - w_scale.shape[1])])
    return product(x, w_packed, scales, -scales, size)


def bind_ternary_matmul(problem: Problem, config: Config) -> Run:
    return lambda x_q, w_packed: multiply(x_q, w_packed, None, problem, config.group_size).astype(mx.int32)


def bind_quantized_linear(problem: Problem, config: Config) -> Run:
    def run(x_q: mx.array, x_scale: mx.array, w_packed: mx.array, w_scale: mx.array, bias: mx.array | None) -> mx.array:
        if w_scale.ndim == 2:
            y = multiply(x_q, w_packed, w_scale, problem, config.group_size) * x_scale[:, None]
        else:
            y = multiply(x_q, w_packed, None, problem, config.group_size) * (x_scale[:, None] * w_scale)
        return finished([y], bias, problem)

    return run


def bind_bit_linear(problem: Problem, config: Config) -> Run:
    linear = bind_quantized_linear(problem, config)

    def run(x: mx.array, w_packed: mx.array, w_scale: mx.array, bias: mx.array | None) -> mx.array:
        return linear(*quantize_rows(x.astype(mx.float32)), w_packed, w_scale, bias)

    return run


def bind_bit_linear_a16(problem: Problem, config: Config) -> Run:
    def run(x: mx.array, w_packed: mx.array, w_scale: mx.array, bias: mx.array | None) -> mx.array:
        return finished([multiply(x, w_packed, w_scale, problem, config.group_size)], bias, problem)

    return run


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return the likely configs: that of the scales where they are of groups."""
    return tuple(map(Config, (problem.group_size,) if problem.scale == "group" else GROUPS[:2]))


def groups_unsupported_reason(problem: Problem) -> str | None:
    """Return why the scales cannot be handed over, or None."""
    if problem.scale == "group" and problem.group_size not in GROUPS:
        return f"takes groups of {', '.join(map(str, sorted(GROUPS)))} inputs, not of {problem.group_size}"
    return None


def one_scale_refused(problem: Problem) -> str | None:
    """Return why activations with a scale per group cannot be multiplied, or None."""
    return "serves activation='a8' and 'a16'" if problem.activation == "a8g" else None


def language_unsupported_reason(problem: Problem) -> str | None:
    """Return why MLX's product of float32 must not be asked for, or None."""
    if language() == "cuda":
        return "MLX's CUDA build ends the process in products of float32 by two-bit weights (seen with 0.32.4)"
    return None


REFUSED = (
    language_unsupported_reason,
    layout_unsupported_reason,
    one_scale_refused,
    codes_unsupported_reason,
    groups_unsupported_reason,
)


ON_CODES, ON_FLOATS = all_of(codes_refused, *REFUSED), all_of(floats_refused, *REFUSED)
KERNELS = (
    Kernel("mlx.quantized_ternary_matmul", "ternary_matmul", bind_ternary_matmul, configs, ON_CODES),
    Kernel("mlx.quantized_quantized_linear", "quantized_linear", bind_quantized_linear, configs, ON_CODES),
    Kernel("mlx.quantized_bit_linear", "bit_linear", bind_bit_linear, configs, ON_CODES),
    Kernel("mlx.quantized_bit_linear_a16", "bit_linear", bind_bit_linear_a16, configs, ON_FLOATS),
)
