"""`bit_linear`, `quantized_linear` and `ternary_matmul` as torch sees them."""

import torch
from torch.nn import functional as F

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import Call, describe, dtype_name, keep, make_call, new_calls
from bitnet_jit.ops.library import define
from bitnet_jit.problem import MAX_IN_FEATURES, Problem

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SCALES = ("tensor", "row", "group")
ACTIVATIONS = ("a8", "a16")


class LinearCalls:
    """The calls of one linear op, each by all that its kernel relies on: kernels take addresses and check nothing."""

    def __init__(self, op: str) -> None:
        self.op = op
        self._calls = new_calls()

    def find(self, x, w_packed, w_scale, bias, out_features, layout, group_size, activation, y_dtype) -> Call:
        """What runs such arguments. Raises InvalidInput where one does not fit the others."""
        key = (
            x.shape,
            x.dtype,
            x.device,
            w_packed.shape,
            w_packed.dtype,
            w_packed.device,
            None if w_scale is None else (w_scale.shape, w_scale.dtype, w_scale.device),
            None if bias is None else (bias.shape, bias.dtype, bias.device),
            out_features,
            layout,
            group_size,
            activation,
            y_dtype,
        )
        call = self._calls.get(key)
        return call if call is not None else self._make(key, x, w_packed, w_scale, bias)

    def _make(self, key, x, w_packed, w_scale, bias) -> Call:
        return keep(self._calls, key, make_call(self.problem(x, w_packed, w_scale, bias, *key[-5:]), x))

    def problem(self, x, w_packed, w_scale, bias, out_features, layout, group_size, activation, y_dtype) -> Problem:
        """The problem of such arguments. Raises InvalidInput where one does not fit the others."""
        check_x(self.op, x)
        check_options(self.op, activation, y_dtype)
        check_weight(x, w_packed, w_scale, out_features, layout, group_size)
        check_others(x, w_packed=w_packed, w_scale=w_scale, bias=bias)
        check_bias(bias, out_features)
        return describe(
            self.op,
            x,
            out_features,
            layout=layout,
            activation=activation,
            y_dtype=dtype_name(y_dtype),
            scale="" if w_scale is None else SCALES[w_scale.dim()],
            group_size=group_size,
            bias="" if bias is None else dtype_name(bias.dtype),
        )


def check_x(op: str, x: torch.Tensor) -> None:
    """Raise InvalidInput unless x is an input that the op takes."""
    name, allowed = ("x", FLOATS) if op == "bit_linear" else ("x_q", (torch.int8,))
    if x.dtype not in allowed:
        raise InvalidInput(f"{name}: {op} takes {', '.join(map(str, allowed))}, got {x.dtype}")
    if x.dim() < 1 or not 1 <= x.shape[-1] <= MAX_IN_FEATURES:
        raise InvalidInput(f"{name}: expected (..., K) with K from 1 to {MAX_IN_FEATURES}, got {tuple(x.shape)}")


def check_x_scale(x_q: torch.Tensor, x_scale: torch.Tensor) -> None:
    """Raise InvalidInput unless each row of codes has its scale."""
    if x_scale.dtype != torch.float32 or x_scale.shape != x_q.shape[:-1] or x_scale.device != x_q.device:
        raise InvalidInput(
            f"x_scale: expected float32 {tuple(x_q.shape[:-1])} on {x_q.device}, "
            f"got {x_scale.dtype} {tuple(x_scale.shape)} on {x_scale.device}"
        )


def check_options(op: str, activation: str, y_dtype: torch.dtype) -> None:
    """Raise InvalidInput unless the activation mode and the output's dtype are such that there are."""
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if op == "quantized_linear" and y_dtype not in FLOATS:
        raise InvalidInput(f"y_dtype: expected one of {', '.join(map(str, FLOATS))}, got {y_dtype}")


def check_weight(x, w_packed, w_scale, out_features: int, layout: str, group_size: int) -> None:
    """Raise InvalidInput unless the packed weight and its scale have the dtypes and shapes that the layer needs."""
    in_features = x.shape[-1]
    if out_features < 1:
        raise InvalidInput(f"out_features: expected at least 1, got {out_features}")
    registry.get_layout(layout).check(w_packed, out_features, in_features)
    if w_scale is None:
        return
    if group_size and (w_scale.dim() != 2 or group_size < 0):
        raise InvalidInput(
            f"group_size: expected 0 unless w_scale is (N, groups), got {group_size} with {tuple(w_scale.shape)}"
        )
    shapes = [(), (out_features,), (out_features, -(-in_features // group_size) if group_size > 0 else 0)]
    if w_scale.dtype != torch.float32 or w_scale.dim() > 2 or tuple(w_scale.shape) != shapes[w_scale.dim()]:
        raise InvalidInput(
            f"w_scale: expected float32 (), ({out_features},) or ({out_features}, ceil({in_features} / group_size)) "
            f"with group_size={group_size}, got {w_scale.dtype} {tuple(w_scale.shape)}"
        )


def check_others(x: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise InvalidInput unless every tensor is on x's device."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise InvalidInput(f"{name}: is on {tensor.device}, x on {x.device}; move one of them")


def check_bias(bias: torch.Tensor | None, out_features: int) -> None:
    """Raise InvalidInput unless the bias is (out_features,) of a floating dtype."""
    if bias is not None and (bias.shape != (out_features,) or bias.dtype not in FLOATS):
        raise InvalidInput(f"bias: expected floating point ({out_features},), got {bias.dtype} {tuple(bias.shape)}")


BIT_LINEAR = LinearCalls("bit_linear")
QUANTIZED_LINEAR = LinearCalls("quantized_linear")
TERNARY_MATMUL = LinearCalls("ternary_matmul")


def bit_linear(x, w_packed, w_scale, bias, out_features, layout, group_size, activation):
    call = BIT_LINEAR.find(x, w_packed, w_scale, bias, out_features, layout, group_size, activation, x.dtype)
    return call(x, w_packed, w_scale, bias)


def fake_bit_linear(x, w_packed, w_scale, bias, out_features, layout, group_size, activation):
    return x.new_empty((*x.shape[:-1], out_features))


def quantized_linear(x_q, x_scale, w_packed, w_scale, bias, out_features, layout, group_size, y_dtype):
    check_x_scale(x_q, x_scale)
    call = QUANTIZED_LINEAR.find(x_q, w_packed, w_scale, bias, out_features, layout, group_size, "a8", y_dtype)
    return call(x_q, x_scale, w_packed, w_scale, bias)


def fake_quantized_linear(x_q, x_scale, w_packed, w_scale, bias, out_features, layout, group_size, y_dtype):
    return x_q.new_empty((*x_q.shape[:-1], out_features), dtype=y_dtype)


def ternary_matmul(x_q, w_packed, out_features, layout):
    call = TERNARY_MATMUL.find(x_q, w_packed, None, None, out_features, layout, 0, "a8", torch.int32)
    return call(x_q, w_packed)


def fake_ternary_matmul(x_q, w_packed, out_features, layout):
    return x_q.new_empty((*x_q.shape[:-1], out_features), dtype=torch.int32)


def check_frozen(w_scale: torch.Tensor) -> None:
    """Raise InvalidInput where a packed layer's scale wants a gradient."""
    if w_scale.requires_grad:
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
        ctx.in_features, ctx.options = x.shape[-1], options
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.bit_linear(x, w_packed, w_scale, bias, *options)

    @staticmethod
    def surrogate(x, w_packed, w_scale, bias, out_features, layout, group_size, activation):
        check_frozen(w_scale)
        w = torch.ops.bitnet_jit.dequantize_weight(
            w_packed, w_scale, x.shape[-1], out_features, layout, group_size, x.dtype
        )
        return F.linear(x, w, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx, dy):
        w_packed, w_scale = ctx.saved_tensors
        out_features, layout, group_size, _ = ctx.options
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.bitnet_jit.bit_linear_input_grad(
                dy, w_packed, w_scale, ctx.in_features, out_features, layout, group_size
            )
        if ctx.needs_input_grad[3]:
            dbias = bias_gradient(dy, ctx.bias_dtype)
        return dx, None, None, dbias, None, None, None, None


define(
    "bit_linear(Tensor x, Tensor w_packed, Tensor w_scale, Tensor? bias, int out_features, str layout, "
    "int group_size, str activation) -> Tensor",
    bit_linear,
    fake_bit_linear,
    BitLinearFunction,
    autocast=True,
)
define(
    "quantized_linear(Tensor x_q, Tensor x_scale, Tensor w_packed, Tensor w_scale, Tensor? bias, int out_features, "
    "str layout, int group_size, ScalarType y_dtype) -> Tensor",
    quantized_linear,
    fake_quantized_linear,
)
define(
    "ternary_matmul(Tensor x_q, Tensor w_packed, int out_features, str layout) -> Tensor",
    ternary_matmul,
    fake_ternary_matmul,
)
