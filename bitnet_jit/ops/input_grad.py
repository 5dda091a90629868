"""`bit_linear_input_grad`, the gradient of a ternary layer's input.

    dX = dY @ (w_q * w_scale)

Few rows go to a kernel that reads the packed weight, where the device has one. For many the weight becomes floats of
dY's dtype first, and the product is torch's: at 256 rows and more that is the faster at most shapes on an H100, twice
at 4096.
"""

from typing import Any

import torch
from torch.nn import functional as F

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import make_call
from bitnet_jit.ops.linear import multiply_adds
from bitnet_jit.ops.op import define
from bitnet_jit.ops.scratch import scratch
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import OUT_ROWS, PACKED_OPTIONS, ROWS, W_PACKED, W_SCALE
from bitnet_jit.ops.weights import DEQUANTIZE_WEIGHT
from bitnet_jit.problem import Problem

DENSE_ROWS = 256  # of the bucket, a power of two: from 129 rows on
SPEC = OpSpec(
    "bit_linear_input_grad",
    (Tensor("dy", FLOATS, OUT_ROWS), W_PACKED, W_SCALE, *PACKED_OPTIONS),
    (Output("dx", ROWS, "dy"),),
    operations=multiply_adds,
)


def make_input_grad(values: tuple[Any, ...], seen: Seen) -> Call:
    """Return what runs such arguments."""
    dy, *weight = values
    problem = SPEC.problem(seen)
    if not is_dense(problem):
        return make_call(problem, SPEC.operands_of(problem, seen.sizes[...]), dy.device)
    return dense(DEQUANTIZE_WEIGHT.find(*weight, dy.dtype), (seen.sizes["N"], seen.sizes["K"]), dy.dtype)


def is_dense(problem: Problem) -> bool:
    """Return whether the weight becomes floats: for many rows, and where the fallback would unpack it anyhow."""
    return problem.rows >= DENSE_ROWS or registry.is_fallback(registry.candidates(problem)[0][0])


def dense(dequantize: Call, shape: tuple[int, int], dtype: torch.dtype) -> Call:
    """Return the product with the weight as floats, (N, K) of a dtype."""
    n, k = shape

    def call(dy: torch.Tensor, w_packed: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        w: torch.Tensor
        if hasattr(dequantize, "into"):
            w = dequantize.into(scratch(shape, dtype), w_packed, w_scale)
        else:
            w = dequantize(w_packed, w_scale)
        return (dy.reshape(-1, n) @ w).reshape(*dy.shape[:-1], k)

    return call


class InputGradFunction(torch.autograd.Function):
    """A second derivative: the op is linear in dY, with the weight that the forward pass multiplied by."""

    @staticmethod
    def forward(ctx: Any, dy: Any, w_packed: Any, w_scale: Any, *options: Any) -> Any:
        ctx.save_for_backward(w_packed, w_scale)
        ctx.options = options
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.bit_linear_input_grad(dy, w_packed, w_scale, *options)

    @staticmethod
    def surrogate(dy: Any, w_packed: Any, w_scale: Any, *options: Any) -> Any:
        return dy @ torch.ops.bitnet_jit.dequantize_weight(w_packed, w_scale, *options, dy.dtype)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        w = torch.ops.bitnet_jit.dequantize_weight(*ctx.saved_tensors, *ctx.options, g.dtype)
        return F.linear(g, w), None, None, *(None,) * len(ctx.options)


INPUT_GRAD = define(SPEC, make_input_grad, InputGradFunction)
