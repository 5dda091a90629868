"""`rms_norm_bit_linear`: a packed layer behind the norm of its own input.

    y = bit_linear(rms_norm(x, weight, eps), ...)

x is normalized and quantized in one pass: codes are made of the norm's float32 values, which are not rounded before.
"""

import torch

from bitnet_jit.kernels.torch.norm import norm_gradients as differentiable
from bitnet_jit.ops.library import define, eager
from bitnet_jit.ops.linear import (
    BitLinearFunction,
    bias_gradient,
    bit_linear,
    check_frozen,
    check_options,
    quantized_linear,
)
from bitnet_jit.ops.norm import RmsNormFunction, rms_norm, rms_norm_quantize


def rms_norm_bit_linear(x, weight, eps, w_packed, w_scale, bias, out_features, layout, group_size, activation):
    """x (..., K), weight (K,) of the norm and the arguments of bit_linear -> y (..., N) of x's dtype."""
    check_options("bit_linear", activation, x.dtype)
    if activation == "a16":
        x = rms_norm(x, weight, eps)
        return bit_linear(x, w_packed, w_scale, bias, out_features, layout, group_size, activation)
    x_q, x_scale = rms_norm_quantize(x, weight, eps)
    return quantized_linear(x_q, x_scale, w_packed, w_scale, bias, out_features, layout, group_size, x.dtype)


def fake_rms_norm_bit_linear(x, weight, eps, w_packed, w_scale, bias, out_features, layout, group_size, activation):
    """By the ops that it consists of, so that who watches sees those."""
    ops = torch.ops.bitnet_jit
    if activation == "a16":
        x = ops.rms_norm(x, weight, eps)
        return ops.bit_linear(x, w_packed, w_scale, bias, out_features, layout, group_size, activation)
    codes = ops.rms_norm_quantize(x, weight, eps)
    return ops.quantized_linear(*codes, w_packed, w_scale, bias, out_features, layout, group_size, x.dtype)


class RmsNormBitLinearFunction(torch.autograd.Function):
    """Gradients of the packed layer, then of the norm; straight through the quantizer between them."""

    @staticmethod
    def forward(ctx, x, weight, eps, w_packed, w_scale, bias, *options):
        check_frozen(w_scale)
        ctx.save_for_backward(x, weight, w_packed, w_scale)
        ctx.eps, ctx.options, ctx.bias_dtype = eps, options, None if bias is None else bias.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.rms_norm_bit_linear(x, weight, eps, w_packed, w_scale, bias, *options)

    @staticmethod
    def surrogate(x, weight, eps, *layer):
        return BitLinearFunction.surrogate(RmsNormFunction.surrogate(x, weight, eps), *layer)

    @staticmethod
    def backward(ctx, dy):
        x, weight, w_packed, w_scale = ctx.saved_tensors
        out_features, layout, group_size, _ = ctx.options
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            inner = input_grad(dy, w_packed, w_scale, x.shape[-1], out_features, layout, group_size)
            of_norm = differentiable if torch.is_grad_enabled() else norm_gradients
            dx, dweight = of_norm(inner, x, weight, ctx.eps)
        if ctx.needs_input_grad[5]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, dweight, None, None, None, dbias, None, None, None, None


define(
    "rms_norm_bit_linear(Tensor x, Tensor weight, float eps, Tensor w_packed, Tensor w_scale, Tensor? bias, "
    "int out_features, str layout, int group_size, str activation) -> Tensor",
    rms_norm_bit_linear,
    fake_rms_norm_bit_linear,
    RmsNormBitLinearFunction,
    autocast=True,
)

input_grad, norm_gradients = eager("bit_linear_input_grad"), eager("rms_norm_gradients")
