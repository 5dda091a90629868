"""Row-wise ops as torch sees them: activation quantization, RMSNorm and their fusions."""

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.torch.norm import norm_gradients, norm_rows
from bitnet_jit.ops.calls import Call, describe, dtype_name, keep, make_call, new_calls
from bitnet_jit.ops.library import define, eager
from bitnet_jit.problem import MAX_IN_FEATURES, Problem

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class RowCalls:
    """The calls of one row-wise op, each by all that its kernel relies on."""

    def __init__(self, op: str) -> None:
        self.op = op
        self._calls = new_calls()

    def find(self, x: torch.Tensor, weight: torch.Tensor | None) -> Call:
        """What runs such arguments. Raises InvalidInput where x or the weight do not fit."""
        key = (x.shape, x.dtype, x.device, None if weight is None else (weight.shape, weight.dtype, weight.device))
        call = self._calls.get(key)
        return call if call is not None else self._make(key, x, weight)

    def _make(self, key, x: torch.Tensor, weight: torch.Tensor | None) -> Call:
        return keep(self._calls, key, make_call(self.problem(x, weight), x))

    def problem(self, x: torch.Tensor, weight: torch.Tensor | None) -> Problem:
        """The problem of such arguments. Raises InvalidInput where x or the weight do not fit."""
        if x.dtype not in FLOATS or x.dim() < 1 or not 1 <= x.shape[-1] <= MAX_IN_FEATURES:
            raise InvalidInput(
                f"x: {self.op} takes floating point (..., K) with K from 1 to {MAX_IN_FEATURES}, "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        features = x.shape[-1]
        if weight is not None and (
            weight.shape != (features,) or weight.dtype not in FLOATS or weight.device != x.device
        ):
            raise InvalidInput(
                f"weight: expected floating point ({features},) on {x.device}, "
                f"got {weight.dtype} {tuple(weight.shape)} on {weight.device}"
            )
        y_dtype = dtype_name(x.dtype) if self.op in ("rms_norm", "rms_norm_gradients") else "int8"
        bias = "" if weight is None else dtype_name(weight.dtype)
        return describe(self.op, x, features, y_dtype=y_dtype, bias=bias)


QUANTIZE_ACTIVATION = RowCalls("quantize_activation")
RMS_NORM = RowCalls("rms_norm")
RMS_NORM_GRADIENTS = RowCalls("rms_norm_gradients")
RMS_NORM_QUANTIZE = RowCalls("rms_norm_quantize")
RELU2_MUL_NORM_QUANTIZE = RowCalls("relu2_mul_norm_quantize")
SILU_MUL_NORM_QUANTIZE = RowCalls("silu_mul_norm_quantize")


def quantize_activation(x):
    return QUANTIZE_ACTIVATION.find(x, None)(x)


def rms_norm(x, weight, eps):
    return RMS_NORM.find(x, weight)(x, weight, eps)


def rms_norm_quantize(x, weight, eps):
    return RMS_NORM_QUANTIZE.find(x, weight)(x, weight, eps)


def check_gate_and_up(gate, up):
    """Raise InvalidInput unless the two are alike."""
    if gate.shape != up.shape or gate.dtype != up.dtype or gate.device != up.device:
        raise InvalidInput(
            f"up: expected {gate.dtype} {tuple(gate.shape)} on {gate.device} as gate, "
            f"got {up.dtype} {tuple(up.shape)} on {up.device}"
        )


def silu_mul_norm_quantize(gate, up, weight, eps):
    check_gate_and_up(gate, up)
    return SILU_MUL_NORM_QUANTIZE.find(gate, weight)(gate, up, weight, eps)


def relu2_mul_norm_quantize(gate, up, weight, eps):
    check_gate_and_up(gate, up)
    return RELU2_MUL_NORM_QUANTIZE.find(gate, weight)(gate, up, weight, eps)


def fake_codes(x, *others):
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)


def rms_norm_gradients(dy, x, weight, eps):
    """dY (..., K) and the norm's arguments -> dx (..., K), dw (K,)."""
    call = RMS_NORM_GRADIENTS.find(x, weight)
    if dy.shape != x.shape or dy.dtype != x.dtype or dy.device != x.device:
        raise InvalidInput(
            f"dy: expected {x.dtype} {tuple(x.shape)} on {x.device} as x, "
            f"got {dy.dtype} {tuple(dy.shape)} on {dy.device}"
        )
    return call(dy, x, weight, eps)


def fake_rms_norm_gradients(dy, x, weight, eps):
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(weight)


class RmsNormFunction(torch.autograd.Function):
    """The norm, and its gradients in float32; where theirs are wanted, by torch's operations."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.rms_norm(x, weight, eps)

    @staticmethod
    def surrogate(x, weight, eps):
        return norm_rows(x.float(), weight, eps).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        of_norm = norm_gradients if torch.is_grad_enabled() else gradients
        return *of_norm(dy, x, weight, ctx.eps), None


define("quantize_activation(Tensor x) -> (Tensor, Tensor)", quantize_activation, fake_codes)
define(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    rms_norm,
    lambda x, weight, eps: torch.empty_like(x, memory_format=torch.contiguous_format),
    RmsNormFunction,
)
define(
    "rms_norm_gradients(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    rms_norm_gradients,
    fake_rms_norm_gradients,
)
gradients = eager("rms_norm_gradients")
define("rms_norm_quantize(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)", rms_norm_quantize, fake_codes)
define(
    "relu2_mul_norm_quantize(Tensor gate, Tensor up, Tensor weight, float eps) -> (Tensor, Tensor)",
    relu2_mul_norm_quantize,
    fake_codes,
)
define(
    "silu_mul_norm_quantize(Tensor gate, Tensor up, Tensor? weight, float eps) -> (Tensor, Tensor)",
    silu_mul_norm_quantize,
    fake_codes,
)
