"""`rms_norm_bit_linear`: a packed layer behind the norm of its own input.

    y = bit_linear(rms_norm(x, weight, eps), ...)

x is normalized and quantized in one pass: codes are made of the norm's float32 values, which are not rounded before.
"""

import torch

from bitnet_jit.kernels.torch.norm import norm_gradients as differentiable
from bitnet_jit.ops.calls import Call
from bitnet_jit.ops.library import define, eager
from bitnet_jit.ops.linear import BIT_LINEAR, QUANTIZED_LINEAR, BitLinearFunction, bias_gradient, check_frozen
from bitnet_jit.ops.lookup import Lookup
from bitnet_jit.ops.norm import RMS_NORM, RMS_NORM_QUANTIZE, RmsNormFunction, fake_codes


def make_fused(x, weight, eps, w_packed, w_scale, bias, *options) -> Call:
    """Return what runs such arguments: two calls, found once."""
    *sizes, activation = options
    if activation == "a16":
        norm = RMS_NORM.find(x, weight, eps)
        linear = BIT_LINEAR.find(x, w_packed, w_scale, bias, *options)
        return lambda x, weight, eps, *layer: linear(norm(x, weight, eps), *layer)
    norm = RMS_NORM_QUANTIZE.find(x, weight, eps)
    product = QUANTIZED_LINEAR.find(*fake_codes(x), w_packed, w_scale, bias, *sizes, x.dtype)
    return lambda x, weight, eps, *layer: product(*norm(x, weight, eps), *layer)


FUSED = Lookup("rms_norm_bit_linear", make_fused)


def fake_rms_norm_bit_linear(x, weight, eps, w_packed, w_scale, bias, *options):
    """By the ops that it consists of, so that who watches sees those."""
    ops, (*sizes, activation) = torch.ops.bitnet_jit, options
    if activation == "a16":
        return ops.bit_linear(ops.rms_norm(x, weight, eps), w_packed, w_scale, bias, *options)
    return ops.quantized_linear(*ops.rms_norm_quantize(x, weight, eps), w_packed, w_scale, bias, *sizes, x.dtype)


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
        *sizes, _ = ctx.options
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            inner = input_grad(dy, w_packed, w_scale, *sizes)
            of_norm = differentiable if torch.is_grad_enabled() else norm_gradients
            dx, dweight = of_norm(inner, x, weight, ctx.eps)
        if ctx.needs_input_grad[5]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, dweight, None, None, None, dbias, *(None,) * len(ctx.options)


define(
    "rms_norm_bit_linear(Tensor x, Tensor weight, float eps, Tensor w_packed, Tensor w_scale, Tensor? bias, "
    "int in_features, int out_features, str layout, int group_size, str activation) -> Tensor",
    FUSED.run,
    fake_rms_norm_bit_linear,
    RmsNormBitLinearFunction,
    autocast=True,
)

input_grad, norm_gradients = eager("bit_linear_input_grad"), eager("rms_norm_gradients")
