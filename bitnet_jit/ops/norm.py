"""Row-wise ops as torch sees them: activation quantization, RMSNorm and their fusions."""

import torch

from bitnet_jit.kernels.torch.norm import norm_gradients, norm_rows
from bitnet_jit.ops.calls import describe, dtype_name
from bitnet_jit.ops.library import define, eager
from bitnet_jit.ops.lookup import KernelLookup
from bitnet_jit.problem import Problem


def row_problem(op: str, x: torch.Tensor, weight: torch.Tensor | None = None) -> Problem:
    """Return the problem of a row-wise op."""
    y_dtype = dtype_name(x.dtype) if op in ("rms_norm", "rms_norm_gradients") else "int8"
    return describe(op, x, x.shape[-1], y_dtype=y_dtype, bias="" if weight is None else dtype_name(weight.dtype))


def norm_lookup(op: str) -> KernelLookup:
    """Return the calls of an op on (x, weight, eps)."""
    return KernelLookup(op, lambda x, weight, eps: row_problem(op, x, weight))


def gated_lookup(op: str) -> KernelLookup:
    """Return the calls of an op on (gate, up, weight, eps), and those of a norm's gradients (dy, x, weight, eps)."""
    return KernelLookup(op, lambda first, second, weight, eps: row_problem(op, first, weight))


QUANTIZE_ACTIVATION = KernelLookup("quantize_activation", lambda x: row_problem("quantize_activation", x))
RMS_NORM = norm_lookup("rms_norm")
RMS_NORM_GRADIENTS = gated_lookup("rms_norm_gradients")
RMS_NORM_QUANTIZE = norm_lookup("rms_norm_quantize")
RELU2_MUL_NORM_QUANTIZE = gated_lookup("relu2_mul_norm_quantize")
SILU_MUL_NORM_QUANTIZE = gated_lookup("silu_mul_norm_quantize")


def fake_codes(x, *others):
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)


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


define("quantize_activation(Tensor x) -> (Tensor, Tensor)", QUANTIZE_ACTIVATION.run, fake_codes)
define(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    RMS_NORM.run,
    lambda x, weight, eps: torch.empty_like(x, memory_format=torch.contiguous_format),
    RmsNormFunction,
)
define(
    "rms_norm_gradients(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    RMS_NORM_GRADIENTS.run,
    fake_rms_norm_gradients,
)
gradients = eager("rms_norm_gradients")
define("rms_norm_quantize(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)", RMS_NORM_QUANTIZE.run, fake_codes)
define(
    "relu2_mul_norm_quantize(Tensor gate, Tensor up, Tensor weight, float eps) -> (Tensor, Tensor)",
    RELU2_MUL_NORM_QUANTIZE.run,
    fake_codes,
)
define(
    "silu_mul_norm_quantize(Tensor gate, Tensor up, Tensor? weight, float eps) -> (Tensor, Tensor)",
    SILU_MUL_NORM_QUANTIZE.run,
    fake_codes,
)
