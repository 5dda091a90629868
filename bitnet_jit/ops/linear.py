"""`bit_linear`, `quantized_linear` and `ternary_matmul` as torch sees them."""

import torch
from torch.nn import functional as F

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.calls import describe, dtype_name
from bitnet_jit.ops.library import define
from bitnet_jit.ops.lookup import KernelLookup
from bitnet_jit.problem import Problem

SCALES = ("tensor", "row", "group")


def linear_problem(op, x, w_scale, bias, sizes, layout, group_size, activation, y_dtype) -> Problem:
    """Return the problem of one of the three ops; `sizes` are in_features and out_features."""
    in_features, out_features = sizes
    return describe(
        op,
        x,
        out_features,
        in_features=in_features,
        layout=layout,
        activation=activation,
        y_dtype=dtype_name(y_dtype),
        scale="" if w_scale is None else SCALES[w_scale.dim()],
        group_size=group_size,
        bias="" if bias is None else dtype_name(bias.dtype),
    )


def layer_problem(x, w_packed, w_scale, bias, in_features, out_features, layout, group_size, activation) -> Problem:
    """Return the problem of `bit_linear`."""
    sizes = in_features, out_features
    return linear_problem("bit_linear", x, w_scale, bias, sizes, layout, group_size, activation, x.dtype)


def codes_problem(
    x_q, x_scale, w_packed, w_scale, bias, in_features, out_features, layout, group_size, y_dtype
) -> Problem:
    """Return the problem of `quantized_linear`."""
    sizes = in_features, out_features
    return linear_problem("quantized_linear", x_q, w_scale, bias, sizes, layout, group_size, "a8", y_dtype)


def sums_problem(x_q, w_packed, in_features, out_features, layout) -> Problem:
    """Return the problem of `ternary_matmul`."""
    sizes = in_features, out_features
    return linear_problem("ternary_matmul", x_q, None, None, sizes, layout, 0, "a8", torch.int32)


BIT_LINEAR = KernelLookup("bit_linear", layer_problem)
QUANTIZED_LINEAR = KernelLookup("quantized_linear", codes_problem)
TERNARY_MATMUL = KernelLookup("ternary_matmul", sums_problem)


def fake_bit_linear(x, w_packed, w_scale, bias, in_features, out_features, layout, group_size, activation):
    return x.new_empty((*x.shape[:-1], out_features))


def fake_quantized_linear(
    x_q, x_scale, w_packed, w_scale, bias, in_features, out_features, layout, group_size, y_dtype
):
    return x_q.new_empty((*x_q.shape[:-1], out_features), dtype=y_dtype)


def fake_ternary_matmul(x_q, w_packed, in_features, out_features, layout):
    return x_q.new_empty((*x_q.shape[:-1], out_features), dtype=torch.int32)


def check_frozen(w_scale: torch.Tensor) -> None:
    """Raise InvalidInput where a packed layer's scale wants a gradient."""
    if w_scale is not None and w_scale.requires_grad:
        raise InvalidInput("w_scale: requires_grad=True, but a packed layer's scale is frozen; pass w_scale.detach()")


def bias_gradient(dy: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """dY (..., N) -> the sum over its rows, added up in float32: (N,) of a dtype."""
    return dy.reshape(-1, dy.shape[-1]).sum(0, dtype=torch.float32).to(dtype)


class BitLinearFunction(torch.autograd.Function):
    """Gradients of a packed layer: through the weight as it is, straight through the activation quantizer."""

    @staticmethod
    def forward(ctx, x, w_packed, w_scale, bias, *options):
        check_frozen(w_scale)
        ctx.save_for_backward(w_packed, w_scale)
        ctx.options = options
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.bit_linear(x, w_packed, w_scale, bias, *options)

    @staticmethod
    def surrogate(x, w_packed, w_scale, bias, *options):
        check_frozen(w_scale)
        *sizes, _ = options
        w = torch.ops.bitnet_jit.dequantize_weight(w_packed, w_scale, *sizes, x.dtype)
        return F.linear(x, w, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx, dy):
        w_packed, w_scale = ctx.saved_tensors
        *sizes, _ = ctx.options
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.bitnet_jit.bit_linear_input_grad(dy, w_packed, w_scale, *sizes)
        if ctx.needs_input_grad[3]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, None, None, dbias, *(None,) * len(ctx.options)


define(
    "bit_linear(Tensor x, Tensor w_packed, Tensor w_scale, Tensor? bias, int in_features, int out_features, "
    "str layout, int group_size, str activation) -> Tensor",
    BIT_LINEAR.run,
    fake_bit_linear,
    BitLinearFunction,
    autocast=True,
)
define(
    "quantized_linear(Tensor x_q, Tensor x_scale, Tensor w_packed, Tensor w_scale, Tensor? bias, int in_features, "
    "int out_features, str layout, int group_size, ScalarType y_dtype) -> Tensor",
    QUANTIZED_LINEAR.run,
    fake_quantized_linear,
)
define(
    "ternary_matmul(Tensor x_q, Tensor w_packed, int in_features, int out_features, str layout) -> Tensor",
    TERNARY_MATMUL.run,
    fake_ternary_matmul,
)
