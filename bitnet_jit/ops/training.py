"""`bit_linear_train`: the layer on its float weight, with BitNet's straight-through gradients (arXiv 2402.17764).

    y  = float32(x_q @ w_q.T) * (x_scale * w_scale) + bias     as the packed layer gives it, bit for bit
    dX = dY @ (w_q * w_scale)       dW = dY.T @ (x_q * x_scale)       dbias = sum of dY over the rows

Both quantizers count as the identity in the backward pass. Where there is a norm_weight, x_q are the codes of the
normalized x, made in one pass, and dX goes through the norm. The weight is quantized into the layout in which packed
weights run, and the product is theirs, of integers. What the backward pass needs is kept as codes, two bits per weight
and eight per activation; its products are torch's, of floats of dY's dtype, but for few rows on a GPU (see
input_grad.py). Every step is an opaque op, so eager and compiled training give the same numbers, and a compiled model
quantizes what several layers share only once.
"""

from typing import Any

import torch
from torch.nn import functional as F

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.torch.norm import norm_gradients as differentiable_norm_gradients
from bitnet_jit.kernels.torch.norm import norm_rows
from bitnet_jit.ops.arguments import Tensor, Whole
from bitnet_jit.ops.input_grad import INPUT_GRAD
from bitnet_jit.ops.library import PLAIN, TensorPlaces, num_dispatch_modes
from bitnet_jit.ops.linear import QUANTIZED_LINEAR, bias_gradient, quantized_linear
from bitnet_jit.ops.norm import (
    QUANTIZE_ACTIVATION,
    RMS_NORM_QUANTIZE,
    quantize_activation,
    rms_norm_gradients,
    rms_norm_quantize,
)
from bitnet_jit.ops.op import define
from bitnet_jit.ops.scratch import scratch
from bitnet_jit.ops.shapes import Seen
from bitnet_jit.ops.spec import OpSpec, Output
from bitnet_jit.ops.vocabulary import BIAS, DTYPE, EPS, OUT_ROWS, PER_FEATURE, ROWS, WEIGHT, WEIGHT_SHAPE, X
from bitnet_jit.ops.weights import QUANTIZE_WEIGHT, dequantize_activation, layout_for, quantize_weight

MIXED_SUMS = torch.__version__ >= "2.8"  # compared as versions: whether torch's products of half types can give float32
REVISION = 6  # an argument of the op; raised when other ops are called within it: see `define` below


def make_train(values: tuple[Any, ...], seen: Seen) -> Call:
    """Return what runs such arguments where no gradients are wanted."""
    _, weight, *_ = values
    layout, (out_features, in_features) = layout_for(weight), weight.shape

    def call(x: Any, weight: Any, bias: Any, norm_weight: Any, eps: Any) -> Any:
        codes = QUANTIZE_WEIGHT.run(weight, layout)  # first: see kernels/triton/weights/quantize_weight.py
        x_codes = QUANTIZE_ACTIVATION.run(x) if norm_weight is None else RMS_NORM_QUANTIZE.run(x, norm_weight, eps)
        return QUANTIZED_LINEAR.run(*x_codes, *codes, bias, in_features, out_features, layout, 0, x.dtype)

    return call


def make_weight_grad(values: tuple[Any, ...], seen: Seen) -> Call:
    """Return what runs such arguments."""
    dy, _, dtype = values
    if MIXED_SUMS and kind_of(dy.device).mixed_sums and dtype == torch.float32 != dy.dtype:
        return lambda dy, x: torch.mm(rows_of(dy).T, rows_of(x), out_dtype=dtype)  # the sums as they are
    if dy.is_cpu and dtype != dy.dtype:
        return lambda dy, x: summed_in_scratch(rows_of(dy), rows_of(x)).to(dtype)
    return lambda dy, x: (rows_of(dy).T @ rows_of(x)).to(dtype)


def rows_of(a: torch.Tensor) -> torch.Tensor:
    """Return a (..., K) as rows (M, K)."""
    return a.reshape(-1, a.shape[-1])


def summed_in_scratch(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return dY.T @ x of dY (M, N) and x (M, K), in memory that the next such product is written to."""
    with torch.no_grad():
        return torch.mm(dy.T, x, out=scratch((dy.shape[1], x.shape[1]), dy.dtype))


def check_train(*args: Any) -> None:
    """Raise InvalidInput unless the arguments fit each other: once for each kind of them where nobody traces."""
    if TENSORS.are_plain(args):
        TRAIN.find(*args, REVISION)
    else:
        TRAIN.spec.check(args)


def stand_in(x: Any) -> Any:
    """Return a tensor without memory whose gradient is one of x, for the forward pass, where gradients are off.

    None while x is traced, for graphs of torch.compile have no second derivatives.
    """
    if type(x) not in PLAIN or num_dispatch_modes():
        return None
    torch._C._set_grad_enabled(True)  # `torch.enable_grad` takes a microsecond more
    try:
        (same,) = x.unsafe_chunk(1)  # the cheapest of torch's operations that passes gradients on and makes no view
    finally:
        torch._C._set_grad_enabled(False)
    same.data = x.new_empty(0)
    return same


class StraightThroughFunction(torch.autograd.Function):
    """Values that count as another tensor in every derivative; what that one holds does not matter."""

    @staticmethod
    def forward(ctx: Any, values: Any, counts_as: Any) -> Any:
        ctx.dtype = counts_as.dtype
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return None, g.to(ctx.dtype)


straight_through: Any = StraightThroughFunction.apply


class BitLinearTrainFunction(torch.autograd.Function):
    """The straight-through estimator; it quantizes once and keeps the codes."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, norm_weight: Any, eps: Any, *revision: Any) -> Any:
        check_train(x, weight, bias, norm_weight, eps)
        layout, (out_features, in_features) = layout_for(weight), weight.shape
        w_packed, w_scale = weight_codes(weight, layout)  # first: see kernels/triton/weights/quantize_weight.py
        x_q, x_scale = codes(x) if norm_weight is None else normed_codes(x, norm_weight, eps)
        y = product(x_q, x_scale, w_packed, w_scale, bias, in_features, out_features, layout, 0, x.dtype)
        # each gradient needs the codes of the other factor only
        kept_x = (x_q, x_scale) if ctx.needs_input_grad[1] else (None, None)
        inward = ctx.needs_input_grad[0] or ctx.needs_input_grad[3]
        kept_w = (w_packed, w_scale) if inward else (None, None)
        kept_norm = (x, norm_weight) if inward and norm_weight is not None else (None, None)
        ctx.save_for_backward(*kept_x, *kept_w, *kept_norm)
        # for second derivatives: what the gradients depend on, whose values may have changed when they are asked for
        ctx.weight = weight if inward and ctx.needs_input_grad[1] else None
        ctx.x = stand_in(x) if ctx.needs_input_grad[0] and ctx.needs_input_grad[1] and norm_weight is None else None
        ctx.layout, ctx.in_features, ctx.weight_dtype = layout, in_features, weight.dtype
        ctx.bias_dtype, ctx.eps, ctx.others = None if bias is None else bias.dtype, eps, len(revision)
        return y

    @staticmethod
    def surrogate(x: Any, weight: Any, bias: Any, norm_weight: Any, eps: Any, *revision: Any) -> Any:
        """Run the layer on x + (Q(x) - x).detach() and the weight alike, in torch's operations."""
        ops = torch.ops.bitnet_jit
        if norm_weight is None:
            counts_as, rounded = x, ops.round_activation(x.detach())
        else:
            counts_as = norm_rows(x.float(), norm_weight, eps).to(x.dtype)
            x_codes = ops.rms_norm_quantize(x.detach(), norm_weight.detach(), eps)
            rounded = ops.dequantize_activation(*x_codes, x.dtype)
        x_hat = rounded + (counts_as - counts_as.detach())
        w_hat = (ops.round_weight(weight.detach()) + (weight - weight.detach())).to(x.dtype)
        return F.linear(x_hat, w_hat, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        if torch.is_grad_enabled():
            return *differentiable_gradients(ctx, dy), None, *(None,) * ctx.others
        x_q, x_scale, w_packed, w_scale, x, norm_weight = ctx.saved_tensors
        dx = dw = dbias = dnorm = None
        if w_packed is not None:
            dx = input_grad(dy, w_packed, w_scale, ctx.in_features, dy.shape[-1], ctx.layout, 0)
        if norm_weight is not None:
            dx, dnorm = norm_gradients(dx, x, norm_weight, ctx.eps)
        if ctx.needs_input_grad[1]:
            dw = weight_grad(dy, floats(x_q, x_scale, dy.dtype), ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, dw, dbias, dnorm, None, *(None,) * ctx.others


def differentiable_gradients(ctx: Any, dy: Any) -> Any:
    """Return the same gradients as functions of dY, x, the weight and the norm's: create_graph=True."""
    x_q, x_scale, w_packed, w_scale, x, norm_weight = ctx.saved_tensors
    dx: Any = None
    dw = dbias = dnorm = None
    counts_as = ctx.x
    if counts_as is None and norm_weight is None and w_packed is not None and x_q is not None:
        raise InvalidInput("x: no second derivatives were prepared for, as the forward pass was traced; run it eagerly")
    if w_packed is not None:
        w = torch.ops.bitnet_jit.dequantize_weight(
            w_packed, w_scale, ctx.in_features, dy.shape[-1], ctx.layout, 0, dy.dtype
        )
        dx = dy @ (w if ctx.weight is None else straight_through(w, ctx.weight))
    if norm_weight is not None:
        dx, dnorm = differentiable_norm_gradients(dx, x, norm_weight, ctx.eps)
        counts_as = norm_rows(x.float(), norm_weight, ctx.eps)
    if ctx.needs_input_grad[1]:
        rows = floats(x_q, x_scale, dy.dtype)
        rows = rows if counts_as is None else straight_through(rows, counts_as)
        dw = (dy.reshape(-1, dy.shape[-1]).T @ rows.reshape(-1, ctx.in_features)).to(ctx.weight_dtype)
    if ctx.needs_input_grad[2]:
        dbias = bias_gradient(dy, ctx.bias_dtype)
    return dx, dw, dbias, dnorm


# torch.compile keeps on disk what it has traced into, under the names and arguments of the ops outside: a revision of
# its own keeps a graph of another version of this package from being found
TRAIN = define(
    OpSpec(
        "bit_linear_train",
        (
            X,
            WEIGHT,
            BIAS,
            Tensor("norm_weight", FLOATS, PER_FEATURE, optional=True),
            EPS,
            Whole("revision", default=REVISION),
        ),
        (Output("y", OUT_ROWS, "x"),),
        leads="weight",
    ),
    make_train,
    BitLinearTrainFunction,
    autocast=True,
)
TENSORS = TensorPlaces(TRAIN.torch)
WEIGHT_GRAD = define(
    OpSpec(
        "bit_linear_train_weight_grad",
        (Tensor("dy", FLOATS, OUT_ROWS), Tensor("x", FLOATS, ROWS, like="dy"), DTYPE),
        (Output("dw", WEIGHT_SHAPE, "dtype"),),
    ),
    make_weight_grad,
)
bit_linear_train = TRAIN.eager

# each op as the steps above call it: straight where nobody traces
weight_codes, codes, normed_codes = quantize_weight, quantize_activation, rms_norm_quantize
product, floats = quantized_linear, dequantize_activation
norm_gradients = rms_norm_gradients
input_grad, weight_grad = INPUT_GRAD.eager, WEIGHT_GRAD.eager
