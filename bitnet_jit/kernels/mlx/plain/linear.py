"""Ternary matmul and linear layers in MLX's own operations: exact, and at home wherever MLX runs.

Products of codes are whole numbers, so a float32 matmul is exact while its partial sums stay under 2^24: K is cut into
pieces of 65,536 inputs, N into pieces that bound the memory of the unpacked weight.
"""

from collections.abc import Callable

import mlx.core as mx

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.metal.linear.refusals import codes_refused, floats_refused
from bitnet_jit.kernels.mlx.plain.norm import quantize_rows
from bitnet_jit.kernels.mlx.plain.products import times, times_rows
from bitnet_jit.kernels.mlx.plain.records import plain_kernel
from bitnet_jit.kernels.unpacking import EXACT_INPUTS, unpacked_chunks
from bitnet_jit.problem import Problem

Run = Callable[..., mx.array]


def accumulate(x_q: mx.array, w_q: mx.array) -> mx.array:
    """Multiply x_q (M, K) int8 and w_q (n, K) int8 to (M, n) int32, exactly."""
    acc = mx.zeros((x_q.shape[0], w_q.shape[0]), dtype=mx.int32)
    for start in range(0, x_q.shape[1], EXACT_INPUTS):
        part = slice(start, start + EXACT_INPUTS)
        acc = acc + times_rows(x_q[:, part].astype(mx.float32), w_q[:, part].astype(mx.float32)).astype(mx.int32)
    return acc


def scaled(x_q: mx.array, x_scale: mx.array, w_q: mx.array, w_scale: mx.array, group_size: int) -> mx.array:
    """Multiply codes and scales to float32 (M, n) without bias.

    w_scale is (), (n,) or (n, groups); x_scale (M,), or (M, groups) beside such a w_scale.
    """
    if w_scale.ndim < 2:
        return accumulate(x_q, w_q).astype(mx.float32) * (x_scale[:, None] * w_scale)
    y = mx.zeros((x_q.shape[0], w_q.shape[0]), dtype=mx.float32)
    for group in range(w_scale.shape[1]):
        part = slice(group * group_size, (group + 1) * group_size)
        scale = w_scale[:, group] if x_scale.ndim == 1 else x_scale[:, group, None] * w_scale[:, group]
        y = y + accumulate(x_q[:, part], w_q[:, part]).astype(mx.float32) * scale
    return y * x_scale[:, None] if x_scale.ndim == 1 else y


def finished(pieces: list[mx.array], bias: mx.array | None, problem: Problem) -> mx.array:
    """Join the outputs of pieces, add the bias, and round once."""
    y = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=1)
    y = y if bias is None else y + bias.astype(mx.float32)
    dtype: mx.Dtype = getattr(mx, problem.y_dtype)
    return y.astype(dtype)


def part_of(w_scale: mx.array, start: int, w_q: mx.array) -> mx.array:
    """Return the scales of a piece of the weight: (), (n,) or (n, groups)."""
    return w_scale[start : start + w_q.shape[0]] if w_scale.ndim else w_scale


def expand_scale(w_scale: mx.array, in_features: int, group_size: int) -> mx.array:
    """Return a scale (), (n,) or (n, groups) in a shape that broadcasts against w (n, in_features)."""
    if w_scale.ndim == 2:
        return mx.repeat(w_scale, min(group_size, in_features), axis=1)[:, :in_features]
    return w_scale[:, None] if w_scale.ndim == 1 else w_scale


def dequantized_chunks(w_packed: mx.array, w_scale: mx.array, problem: Problem) -> list[tuple[int, mx.array]]:
    """Return (first output, w_q * w_scale (n, K) float32) by pieces."""
    return [
        (start, w_q * expand_scale(part_of(w_scale, start, w_q), problem.in_features, problem.group_size))
        for start, w_q in unpacked_chunks(w_packed, problem)
    ]


def quantize_groups(x: mx.array, group_size: int) -> tuple[mx.array, mx.array]:
    """Quantize groups of inputs of x (M, K) float32 to x_q int8, x_scale (M, ceil(K / group_size)) float32."""
    rows, in_features = x.shape
    size = min(group_size, in_features)
    groups = -(-in_features // size)
    padded = mx.pad(x, [(0, 0), (0, groups * size - in_features)])
    x_q, x_scale = quantize_rows(padded.reshape(rows * groups, size))
    return x_q.reshape(padded.shape)[:, :in_features], x_scale.reshape(rows, groups)


def bind_ternary_matmul(problem: Problem, config: Config) -> Run:
    def run(x_q: mx.array, w_packed: mx.array) -> mx.array:
        return finished([accumulate(x_q, w_q) for _, w_q in unpacked_chunks(w_packed, problem)], None, problem)

    return run


def bind_quantized_linear(problem: Problem, config: Config) -> Run:
    def run(x_q: mx.array, x_scale: mx.array, w_packed: mx.array, w_scale: mx.array, bias: mx.array | None) -> mx.array:
        pieces = [
            scaled(x_q, x_scale, w_q, part_of(w_scale, start, w_q), problem.group_size)
            for start, w_q in unpacked_chunks(w_packed, problem)
        ]
        return finished(pieces, bias, problem)

    return run


def bind_bit_linear(problem: Problem, config: Config) -> Run:
    linear = bind_quantized_linear(problem, config)

    def run(x: mx.array, w_packed: mx.array, w_scale: mx.array, bias: mx.array | None) -> mx.array:
        wide = x.astype(mx.float32)
        by_group = problem.activation == "a8g"
        codes = quantize_groups(wide, problem.group_size) if by_group else quantize_rows(wide)
        return linear(*codes, w_packed, w_scale, bias)

    return run


def bind_bit_linear_a16(problem: Problem, config: Config) -> Run:
    def by_group(x: mx.array, w_packed: mx.array, w_scale: mx.array) -> list[mx.array]:
        return [times_rows(x, w) for _, w in dequantized_chunks(w_packed, w_scale, problem)]

    def by_output(x: mx.array, w_packed: mx.array, w_scale: mx.array) -> list[mx.array]:
        return [
            times_rows(x, w_q.astype(mx.float32)) * part_of(w_scale, start, w_q)
            for start, w_q in unpacked_chunks(w_packed, problem)
        ]

    multiply = by_group if problem.scale == "group" else by_output

    def run(x: mx.array, w_packed: mx.array, w_scale: mx.array, bias: mx.array | None) -> mx.array:
        return finished(multiply(x.astype(mx.float32), w_packed, w_scale), bias, problem)

    return run


def bind_input_grad(problem: Problem, config: Config) -> Run:
    def run(dy: mx.array, w_packed: mx.array, w_scale: mx.array) -> mx.array:
        dx = mx.zeros((dy.shape[0], problem.in_features), dtype=mx.float32)
        for start, w in dequantized_chunks(w_packed, w_scale, problem):
            dx = dx + times(dy[:, start : start + w.shape[0]].astype(mx.float32), w)
        return dx.astype(dy.dtype)

    return run


KERNELS = (
    plain_kernel("ternary_matmul", bind_ternary_matmul),
    plain_kernel("quantized_linear", bind_quantized_linear),
    plain_kernel("bit_linear", bind_bit_linear, unsupported_reason=codes_refused),
    plain_kernel("bit_linear", bind_bit_linear_a16, "bit_linear_a16", floats_refused),
    plain_kernel("bit_linear_input_grad", bind_input_grad),
)
