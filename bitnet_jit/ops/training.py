"""`bit_linear_train`: the layer on its float weight, with BitNet's straight-through gradients (arXiv 2402.17764).

    y  = float32(x_q @ w_q.T) * (x_scale * w_scale) + bias     as the packed layer gives it, bit for bit
    dX = dY @ (w_q * w_scale)       dW = dY.T @ (x_q * x_scale)       dbias = sum of dY over the rows

Both quantizers count as the identity in the backward pass. What it needs is kept as int8 codes, a quarter of float32;
its matrix products run in dY's dtype. Every step is an opaque op, so eager and compiled training give the same numbers.
"""

import torch
from torch.autograd.function import once_differentiable

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.torch.linear import scaled
from bitnet_jit.ops.library import define
from bitnet_jit.ops.linear import FLOATS, check_bias, check_others
from bitnet_jit.ops.norm import quantize_activation
from bitnet_jit.problem import MAX_IN_FEATURES
from bitnet_jit.quant import dequantize_weight
from bitnet_jit.quant import quantize_weight as absmean_quantize


def check_train(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Raise InvalidInput unless the arguments fit each other."""
    if weight.dim() != 2 or weight.dtype not in FLOATS or not 1 <= weight.shape[1] <= MAX_IN_FEATURES:
        raise InvalidInput(
            f"weight: expected {', '.join(map(str, FLOATS))} (N, K) with K from 1 to {MAX_IN_FEATURES}, "
            f"got {weight.dtype} {tuple(weight.shape)}"
        )
    if x.dtype not in FLOATS or x.shape[-1:] != weight.shape[1:]:
        raise InvalidInput(
            f"x: expected {', '.join(map(str, FLOATS))} (..., {weight.shape[1]}), got {x.dtype} {tuple(x.shape)}"
        )
    check_others(x, weight=weight, bias=bias)
    check_bias(bias, weight.shape[0])


def bit_linear_train(x, weight, bias):
    check_train(x, weight, bias)
    x_q, x_scale = quantize_activation(x)
    w_q, w_scale = quantize_weight(weight)
    return codes_linear(x_q, x_scale, w_q, w_scale, bias, x.dtype)


def fake_bit_linear_train(x, weight, bias):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def quantize_weight(weight):
    return absmean_quantize(weight)


def fake_quantize_weight(weight):
    return weight.new_empty(weight.shape, dtype=torch.int8), weight.new_empty((), dtype=torch.float32)


def codes_linear(x_q, x_scale, w_q, w_scale, bias, y_dtype):
    """The layer on codes of both: x_q (..., K), x_scale (...), w_q (N, K), w_scale () -> (..., N)."""
    y = scaled(x_q.reshape(-1, x_q.shape[-1]), x_scale.reshape(-1), w_q, w_scale, 0)
    y = y if bias is None else y + bias.float()
    return y.to(y_dtype).reshape(*x_q.shape[:-1], w_q.shape[0])


def fake_codes_linear(x_q, x_scale, w_q, w_scale, bias, y_dtype):
    return x_q.new_empty((*x_q.shape[:-1], w_q.shape[0]), dtype=y_dtype)


def bit_linear_train_input_grad(dy, w_q, w_scale):
    """dY (..., N) -> dX (..., K) in dY's dtype."""
    return dy.contiguous() @ dequantize_weight(w_q, w_scale).to(dy.dtype)


def fake_bit_linear_train_input_grad(dy, w_q, w_scale):
    return dy.new_empty((*dy.shape[:-1], w_q.shape[1]))


def bit_linear_train_weight_grad(dy, x_q, x_scale, dtype):
    """dY (..., N) and the codes of x (..., K) -> dW (N, K) in `dtype`, the weight's."""
    x = (x_q * x_scale[..., None]).to(dy.dtype).reshape(-1, x_q.shape[-1])
    return (dy.reshape(-1, dy.shape[-1]).T @ x).to(dtype)


def fake_bit_linear_train_weight_grad(dy, x_q, x_scale, dtype):
    return dy.new_empty((dy.shape[-1], x_q.shape[-1]), dtype=dtype)


class BitLinearTrainFunction(torch.autograd.Function):
    """The straight-through estimator; it quantizes once and keeps the codes."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        check_train(x, weight, bias)
        ops = torch.ops.bitnet_jit
        with torch._C._AutoDispatchBelowAutograd():
            x_q, x_scale = ops.quantize_activation(x)
            w_q, w_scale = ops.quantize_weight(weight)
            y = ops.codes_linear(x_q, x_scale, w_q, w_scale, bias, x.dtype)
        # each gradient needs the codes of the other factor only
        kept_x = (x_q, x_scale) if ctx.needs_input_grad[1] else (None, None)
        kept_w = (w_q, w_scale) if ctx.needs_input_grad[0] else (None, None)
        ctx.save_for_backward(*kept_x, *kept_w)
        ctx.weight_dtype = weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x_q, x_scale, w_q, w_scale = ctx.saved_tensors
        ops = torch.ops.bitnet_jit
        dx = dw = dbias = None
        if ctx.needs_input_grad[0]:
            dx = ops.bit_linear_train_input_grad(dy, w_q, w_scale)
        if ctx.needs_input_grad[1]:
            dw = ops.bit_linear_train_weight_grad(dy, x_q, x_scale, ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            dbias = dy.float().reshape(-1, dy.shape[-1]).sum(0).to(ctx.bias_dtype)
        return dx, dw, dbias


define(
    "bit_linear_train(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    bit_linear_train,
    fake_bit_linear_train,
    BitLinearTrainFunction,
    autocast=True,
)
define("quantize_weight(Tensor weight) -> (Tensor, Tensor)", quantize_weight, fake_quantize_weight)
define(
    "codes_linear(Tensor x_q, Tensor x_scale, Tensor w_q, Tensor w_scale, Tensor? bias, ScalarType y_dtype) -> Tensor",
    codes_linear,
    fake_codes_linear,
)
define(
    "bit_linear_train_input_grad(Tensor dy, Tensor w_q, Tensor w_scale) -> Tensor",
    bit_linear_train_input_grad,
    fake_bit_linear_train_input_grad,
)
define(
    "bit_linear_train_weight_grad(Tensor dy, Tensor x_q, Tensor x_scale, ScalarType dtype) -> Tensor",
    bit_linear_train_weight_grad,
    fake_bit_linear_train_weight_grad,
)
