"""`bit_linear`, `quantized_linear` and `ternary_matmul`, and the gradients of a packed layer."""

from typing import Any

import torch
from torch.nn import functional as F

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.arguments import Dtype
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.spec import OpSpec, Output, always
from bitnet_jit.ops.vocabulary import ACTIVATION, LAYOUT, LINEAR, OUT_ROWS, SIZES, W_PACKED, X_Q, X_SCALE, X
from bitnet_jit.problem import Problem


def is_exact(problem: Problem) -> bool:
    """Return whether y is made of one integer sum per output."""
    return problem.activation == "a8" and problem.scale != "group"


def multiply_adds(problem: Problem) -> int:
    """Return the operations of a product of x and the weight."""
    return 2 * problem.rows * problem.in_features * problem.out_features


def check_frozen(w_scale: torch.Tensor) -> None:
    """Raise InvalidInput where a packed layer's scale wants a gradient."""
    if w_scale is not None and w_scale.requires_grad:
        raise InvalidInput("w_scale: requires_grad=True, but a packed layer's scale is frozen; pass w_scale.detach()")


def bias_gradient(dy: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the sum of dY (..., N) over its rows, added up in float32: (N,) of a dtype."""
    return dy.reshape(-1, dy.shape[-1]).sum(0, dtype=torch.float32).to(dtype)


class BitLinearFunction(torch.autograd.Function):
    """Gradients of a packed layer: through the weight as it is, straight through the activation quantizer."""

    @staticmethod
    def forward(ctx: Any, x: Any, w_packed: Any, w_scale: Any, bias: Any, *options: Any) -> Any:
        check_frozen(w_scale)
        ctx.save_for_backward(w_packed, w_scale)
        ctx.options = options
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.bit_linear(x, w_packed, w_scale, bias, *options)

    @staticmethod
    def surrogate(x: Any, w_packed: Any, w_scale: Any, bias: Any, *options: Any) -> Any:
        check_frozen(w_scale)
        *sizes, _ = options
        w = torch.ops.bitnet_jit.dequantize_weight(w_packed, w_scale, *sizes, x.dtype)
        return F.linear(x, w, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        w_packed, w_scale = ctx.saved_tensors
        *sizes, _ = ctx.options
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.bitnet_jit.bit_linear_input_grad(dy, w_packed, w_scale, *sizes)
        if ctx.needs_input_grad[3]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, None, None, dbias, *(None,) * len(ctx.options)


BIT_LINEAR = define_by_kernels(
    OpSpec(
        "bit_linear",
        (X, *LINEAR, ACTIVATION),
        (Output("y", OUT_ROWS, "x"),),
        exact=is_exact,
        operations=multiply_adds,
    ),
    function=BitLinearFunction,
    autocast=True,
)
QUANTIZED_LINEAR = define_by_kernels(
    OpSpec(
        "quantized_linear",
        (X_Q, X_SCALE, *LINEAR, Dtype("y_dtype")),
        (Output("y", OUT_ROWS, "y_dtype"),),
        activation="a8",
        exact=is_exact,
        operations=multiply_adds,
    )
)
TERNARY_MATMUL = define_by_kernels(
    OpSpec(
        "ternary_matmul",
        (X_Q, W_PACKED, *SIZES, LAYOUT),
        (Output("y", OUT_ROWS, torch.int32),),
        activation="a8",
        exact=always,
        operations=multiply_adds,
    )
)
bit_linear, quantized_linear = BIT_LINEAR.eager, QUANTIZED_LINEAR.eager
