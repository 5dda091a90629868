"""`bit_linear_input_grad`, the gradient of a ternary layer's input, as torch sees it.

    dX = dY @ (w_q * w_scale)

Few rows go to a kernel that reads the packed weight, where the device has one. For many the weight becomes floats of
dY's dtype first, and the product is torch's: at 256 rows and more that is the faster at most shapes on an H100, twice
at 4096.
"""

import torch
from torch.nn import functional as F

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import Call, describe, dtype_name, keep, make_call, new_calls
from bitnet_jit.ops.library import define
from bitnet_jit.ops.linear import SCALES
from bitnet_jit.ops.scratch import scratch
from bitnet_jit.ops.weights import find_dequantize
from bitnet_jit.problem import Problem

CALLS = new_calls()
DENSE_ROWS = 256  # of the bucket, a power of two: from 129 rows on


def bit_linear_input_grad(dy, w_packed, w_scale, in_features, out_features, layout, group_size):
    """dY (..., N) -> dX (..., K), summed in float32 and rounded once."""
    weight = (w_packed.shape, w_packed.dtype, w_packed.device, w_scale.shape, w_scale.dtype, w_scale.device)
    key = (dy.shape, dy.dtype, dy.device, weight, in_features, out_features, layout, group_size)
    call = CALLS.get(key)
    if call is None:
        if dy.shape[-1:] != (out_features,) or w_packed.device != dy.device:
            raise InvalidInput(
                f"dy: expected (..., {out_features}) on {w_packed.device} as w_packed, "
                f"got {tuple(dy.shape)} on {dy.device}"
            )
        registry.get_layout(layout).check(w_packed, out_features, in_features)
        problem = describe(
            "bit_linear_input_grad",
            dy,
            out_features,
            in_features=in_features,
            layout=layout,
            y_dtype=dtype_name(dy.dtype),
            scale=SCALES[w_scale.dim()],
            group_size=group_size,
        )
        call = keep(CALLS, key, dense(problem) if is_dense(problem) else make_call(problem, dy))
    return call(dy, w_packed, w_scale)


def is_dense(problem: Problem) -> bool:
    """Whether the weight becomes floats: for many rows, and where plain torch operations would unpack it anyhow."""
    return problem.rows >= DENSE_ROWS or registry.candidates(problem)[0][0].backend == "torch"


def dense(problem: Problem) -> Call:
    """The product with the weight as floats."""
    n, k, dtype = problem.out_features, problem.in_features, getattr(torch, problem.y_dtype)

    def call(dy: torch.Tensor, w_packed: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        dequantize = find_dequantize(w_packed, w_scale, k, n, problem.layout, problem.group_size, dtype)
        if hasattr(dequantize, "into"):
            w = dequantize.into(scratch((n, k), dtype), w_packed, w_scale)
        else:
            w = dequantize(w_packed, w_scale)
        return (dy.reshape(-1, n) @ w).reshape(*dy.shape[:-1], k)

    return call


def fake_bit_linear_input_grad(dy, w_packed, w_scale, in_features, out_features, layout, group_size):
    return dy.new_empty((*dy.shape[:-1], in_features))


class InputGradFunction(torch.autograd.Function):
    """A second derivative: the op is linear in dY, with the weight that the forward pass multiplied by."""

    @staticmethod
    def forward(ctx, dy, w_packed, w_scale, *options):
        ctx.save_for_backward(w_packed, w_scale)
        ctx.options = options
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.bit_linear_input_grad(dy, w_packed, w_scale, *options)

    @staticmethod
    def surrogate(dy, w_packed, w_scale, *options):
        return dy @ torch.ops.bitnet_jit.dequantize_weight(w_packed, w_scale, *options, dy.dtype)

    @staticmethod
    def backward(ctx, g):
        w = torch.ops.bitnet_jit.dequantize_weight(*ctx.saved_tensors, *ctx.options, g.dtype)
        return F.linear(g, w), None, None, *(None,) * len(ctx.options)


define(
    "bit_linear_input_grad(Tensor dy, Tensor w_packed, Tensor w_scale, int in_features, int out_features, "
    "str layout, int group_size) -> Tensor",
    bit_linear_input_grad,
    fake_bit_linear_input_grad,
    InputGradFunction,
)
