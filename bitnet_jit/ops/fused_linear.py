"""Packed layers with what stands before them in a decoder's block: a residual sum and a norm, or a gate and a norm.

    add_rms_norm_bit_linear      total = x + delta; y = quantized_linear(rms_norm_quantize(total, weight, eps), ...)
    relu2_mul_norm_bit_linear    y = quantized_linear(relu2_mul_norm_quantize(gate, up, weight, eps), ...)
    silu_mul_norm_bit_linear     the same of silu; the norm may be absent

Activations are int8 with a scale per row. These ops run where no gradient is wanted.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.calls import kernel_call_or
from bitnet_jit.ops.linear import QUANTIZED_LINEAR
from bitnet_jit.ops.norm import ADD_RMS_NORM_QUANTIZE, RELU2_MUL_NORM_QUANTIZE, SILU_MUL_NORM_QUANTIZE
from bitnet_jit.ops.op import Op, define
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import (
    DELTA,
    EPS,
    GATE,
    INNER_NORM_WEIGHT,
    LINEAR,
    OPTIONAL_INNER_NORM_WEIGHT,
    OUT_ROWS,
    ROWS,
    UP,
    X,
)

STEPS = 4  # arguments of the first step: two tensors of rows, weight and eps


def product_of(values: Sequence[Any], codes: Sequence[Any]) -> Call:
    """Return the call of the second step, for codes as the first one gives them."""
    return QUANTIZED_LINEAR.find(*codes, *values[STEPS:], values[0].dtype)


def compose_add(values: Sequence[Any], seen: Seen) -> Call:
    """Return what runs `add_rms_norm_bit_linear` in two steps: two calls, found once."""
    norm = ADD_RMS_NORM_QUANTIZE.find(*values[:STEPS])
    product = product_of(values, ADD_RMS_NORM_QUANTIZE.spec.fake(values[:STEPS])[1:])

    def call(x: Any, delta: Any, weight: Any, eps: Any, *layer: Any) -> Any:
        total, x_q, x_scale = norm(x, delta, weight, eps)
        return total, product(x_q, x_scale, *layer)

    return call


def add_steps(*values: Any) -> Any:
    """Compute by the ops that it consists of."""
    total, *codes = ADD_RMS_NORM_QUANTIZE.torch(*values[:STEPS])
    return total, QUANTIZED_LINEAR.torch(*codes, *values[STEPS:], values[0].dtype)


def define_gated(name: str, first: Op, weight: Any) -> Op:
    """Define the op of a gated layer, whose first step is an op that gives codes."""

    def compose(values: Sequence[Any], seen: Seen) -> Call:
        quantize, product = first.find(*values[:STEPS]), product_of(values, first.spec.fake(values[:STEPS]))
        return lambda gate, up, weight, eps, *layer: product(*quantize(gate, up, weight, eps), *layer)

    def steps(*values: Any) -> torch.Tensor:
        y: torch.Tensor = QUANTIZED_LINEAR.torch(*first.torch(*values[:STEPS]), *values[STEPS:], values[0].dtype)
        return y

    spec = OpSpec(name, (GATE, UP, weight, EPS, *LINEAR), (Output("y", OUT_ROWS, "gate"),), activation="a8")
    return define(spec, kernel_call_or(compose, spec), steps=steps)


ADD_SPEC = OpSpec(
    "add_rms_norm_bit_linear",
    (X, DELTA, INNER_NORM_WEIGHT, EPS, *LINEAR),
    (Output("total", ROWS, "x"), Output("y", OUT_ROWS, "x")),
    activation="a8",
)
ADD_RMS_NORM_BIT_LINEAR = define(ADD_SPEC, kernel_call_or(compose_add, ADD_SPEC), steps=add_steps)
RELU2_MUL_NORM_BIT_LINEAR = define_gated("relu2_mul_norm_bit_linear", RELU2_MUL_NORM_QUANTIZE, INNER_NORM_WEIGHT)
SILU_MUL_NORM_BIT_LINEAR = define_gated("silu_mul_norm_bit_linear", SILU_MUL_NORM_QUANTIZE, OPTIONAL_INNER_NORM_WEIGHT)
add_rms_norm_bit_linear = ADD_RMS_NORM_BIT_LINEAR.eager
relu2_mul_norm_bit_linear = RELU2_MUL_NORM_BIT_LINEAR.eager
silu_mul_norm_bit_linear = SILU_MUL_NORM_BIT_LINEAR.eager
