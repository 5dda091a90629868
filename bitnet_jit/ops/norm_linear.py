"""`rms_norm_bit_linear`: a packed layer behind the norm of its own input.

    y = bit_linear(rms_norm(x, weight, eps), ...)

x is normalized and quantized in one pass: codes are made of the norm's float32 values, which are not rounded before.
For few rows a kernel may do all of it at once.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.torch.norm import norm_gradients as differentiable
from bitnet_jit.ops.calls import kernel_call_or
from bitnet_jit.ops.input_grad import INPUT_GRAD
from bitnet_jit.ops.linear import BIT_LINEAR, QUANTIZED_LINEAR, BitLinearFunction, bias_gradient, check_frozen
from bitnet_jit.ops.norm import RMS_NORM, RMS_NORM_GRADIENTS, RMS_NORM_QUANTIZE, RmsNormFunction
from bitnet_jit.ops.op import define
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import ACTIVATION, EPS, INNER_NORM_WEIGHT, LINEAR, OUT_ROWS, X


def compose(values: Sequence[Any], seen: Seen) -> Call:
    """Return what runs such arguments in two steps: two calls, found once."""
    x, weight, eps, w_packed, w_scale, bias, *options = values
    *sizes, activation = options
    if activation != "a8":
        norm = RMS_NORM.find(x, weight, eps)
        linear = BIT_LINEAR.find(x, w_packed, w_scale, bias, *options)
        return lambda x, weight, eps, *layer: linear(norm(x, weight, eps), *layer)
    norm = RMS_NORM_QUANTIZE.find(x, weight, eps)
    product = QUANTIZED_LINEAR.find(
        *RMS_NORM_QUANTIZE.spec.fake((x, weight, eps)), w_packed, w_scale, bias, *sizes, x.dtype
    )
    return lambda x, weight, eps, *layer: product(*norm(x, weight, eps), *layer)


def steps(x: Any, weight: Any, eps: Any, w_packed: Any, w_scale: Any, bias: Any, *options: Any) -> Any:
    """Compute by the ops that it consists of."""
    ops, (*sizes, activation) = torch.ops.bitnet_jit, options
    if activation != "a8":
        return ops.bit_linear(ops.rms_norm(x, weight, eps), w_packed, w_scale, bias, *options)
    return ops.quantized_linear(*ops.rms_norm_quantize(x, weight, eps), w_packed, w_scale, bias, *sizes, x.dtype)


class RmsNormBitLinearFunction(torch.autograd.Function):
    """Gradients of the packed layer, then of the norm; straight through the quantizer between them."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, eps: Any, w_packed: Any, w_scale: Any, bias: Any, *options: Any) -> Any:
        check_frozen(w_scale)
        ctx.save_for_backward(x, weight, w_packed, w_scale)
        ctx.eps, ctx.options, ctx.bias_dtype = eps, options, None if bias is None else bias.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.rms_norm_bit_linear(x, weight, eps, w_packed, w_scale, bias, *options)

    @staticmethod
    def surrogate(x: Any, weight: Any, eps: Any, *layer: Any) -> Any:
        return BitLinearFunction.surrogate(RmsNormFunction.surrogate(x, weight, eps), *layer)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight, w_packed, w_scale = ctx.saved_tensors
        *sizes, _ = ctx.options
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            inner = INPUT_GRAD.eager(dy, w_packed, w_scale, *sizes)
            gradients_of = differentiable if torch.is_grad_enabled() else RMS_NORM_GRADIENTS.eager
            dx, dweight = gradients_of(inner, x, weight, ctx.eps)
        if ctx.needs_input_grad[5]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, dweight, None, None, None, dbias, *(None,) * len(ctx.options)


SPEC = OpSpec("rms_norm_bit_linear", (X, INNER_NORM_WEIGHT, EPS, *LINEAR, ACTIVATION), (Output("y", OUT_ROWS, "x"),))
RMS_NORM_BIT_LINEAR = define(
    SPEC,
    kernel_call_or(compose, SPEC),
    RmsNormBitLinearFunction,
    autocast=True,
    steps=steps,
)
rms_norm_bit_linear = RMS_NORM_BIT_LINEAR.eager
