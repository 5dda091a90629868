"""Row-wise ops: activation quantization, RMSNorm, their fusions, and the norm's gradients.

    rms_norm         y = x / sqrt(mean x^2 + eps) * weight
    add_rms_norm     total = x + delta; y of total
    relu2_mul_norm   y of relu(gate)^2 * up
    silu_mul_norm    y of silu(gate) * up; the norm may be absent
    sigmoid_mul_norm the same of sigmoid(gate) * up
    gelu_mul_norm    the same of gelu(gate) * up, by tanh
    *_quantize       codes and scale of each row of y, which is not rounded before

Floats are computed in float32 and rounded once, to the dtype of the first argument. Sums and gated products run where
no gradient is wanted.
"""

from typing import Any

import torch

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.kernels.torch.norm import norm_gradients, norm_rows
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.spec import OpSpec, Output, always
from bitnet_jit.ops.vocabulary import (
    DELTA,
    EPS,
    GATE,
    NORM_WEIGHT,
    OPTIONAL_NORM_WEIGHT,
    PER_FEATURE,
    PER_ROW,
    ROWS,
    UP,
    X,
)

Y, TOTAL = Output("y", ROWS, "x"), Output("total", ROWS, "x")
GATED_Y = Output("y", ROWS, "gate")
CODES = (Output("x_q", ROWS, torch.int8), Output("x_scale", PER_ROW, torch.float32))


class RmsNormFunction(torch.autograd.Function):
    """The norm, and its gradients in float32; where theirs are wanted, by torch's operations."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, eps: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.rms_norm(x, weight, eps)

    @staticmethod
    def surrogate(x: Any, weight: Any, eps: Any) -> Any:
        return norm_rows(x.float(), weight, eps).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight = ctx.saved_tensors
        gradients_of = norm_gradients if torch.is_grad_enabled() else RMS_NORM_GRADIENTS.eager
        return *gradients_of(dy, x, weight, ctx.eps), None


QUANTIZE_ACTIVATION = define_by_kernels(OpSpec("quantize_activation", (X,), CODES, exact=always))
RMS_NORM = define_by_kernels(
    OpSpec("rms_norm", (X, NORM_WEIGHT, EPS), (Y,)),
    function=RmsNormFunction,
)
RMS_NORM_GRADIENTS = define_by_kernels(
    OpSpec(
        "rms_norm_gradients",
        (Tensor("dy", FLOATS, ROWS, like="x"), X, NORM_WEIGHT, EPS),
        (Output("dx", ROWS, "x"), Output("dw", PER_FEATURE, "weight")),
        leads="x",
    )
)
RMS_NORM_QUANTIZE = define_by_kernels(OpSpec("rms_norm_quantize", (X, NORM_WEIGHT, EPS), CODES))
ADD_RMS_NORM = define_by_kernels(OpSpec("add_rms_norm", (X, DELTA, NORM_WEIGHT, EPS), (TOTAL, Y)))
ADD_RMS_NORM_QUANTIZE = define_by_kernels(
    OpSpec("add_rms_norm_quantize", (X, DELTA, NORM_WEIGHT, EPS), (TOTAL, *CODES))
)
RELU2_MUL_NORM = define_by_kernels(OpSpec("relu2_mul_norm", (GATE, UP, NORM_WEIGHT, EPS), (GATED_Y,)))
SILU_MUL_NORM = define_by_kernels(OpSpec("silu_mul_norm", (GATE, UP, OPTIONAL_NORM_WEIGHT, EPS), (GATED_Y,)))
SIGMOID_MUL_NORM = define_by_kernels(OpSpec("sigmoid_mul_norm", (GATE, UP, OPTIONAL_NORM_WEIGHT, EPS), (GATED_Y,)))
GELU_MUL_NORM = define_by_kernels(OpSpec("gelu_mul_norm", (GATE, UP, OPTIONAL_NORM_WEIGHT, EPS), (GATED_Y,)))
RELU2_MUL_NORM_QUANTIZE = define_by_kernels(OpSpec("relu2_mul_norm_quantize", (GATE, UP, NORM_WEIGHT, EPS), CODES))
SILU_MUL_NORM_QUANTIZE = define_by_kernels(
    OpSpec("silu_mul_norm_quantize", (GATE, UP, OPTIONAL_NORM_WEIGHT, EPS), CODES)
)

quantize_activation, rms_norm, rms_norm_gradients, rms_norm_quantize = (
    op.eager for op in (QUANTIZE_ACTIVATION, RMS_NORM, RMS_NORM_GRADIENTS, RMS_NORM_QUANTIZE)
)
add_rms_norm, relu2_mul_norm, silu_mul_norm = (op.eager for op in (ADD_RMS_NORM, RELU2_MUL_NORM, SILU_MUL_NORM))
sigmoid_mul_norm, gelu_mul_norm = SIGMOID_MUL_NORM.eager, GELU_MUL_NORM.eager
add_rms_norm_quantize = ADD_RMS_NORM_QUANTIZE.eager
relu2_mul_norm_quantize, silu_mul_norm_quantize = RELU2_MUL_NORM_QUANTIZE.eager, SILU_MUL_NORM_QUANTIZE.eager
