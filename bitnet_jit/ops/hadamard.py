"""Hadamard rotations of rows, alone and behind a norm or a gate: what a layer with folded weights does to its input.

    hadamard                 y = H (signs * x), per run of `block` features
    inverse_hadamard         y = signs * (H x)
    rms_norm_hadamard        hadamard of rms_norm(x, weight, eps)
    add_rms_norm_hadamard    total = x + delta; rms_norm_hadamard of total
    silu_mul_hadamard        hadamard of silu(gate) * up

Numbers are computed in float32, in the order that `reference/hadamard.py` fixes, and rounded once, to the dtype of the
first argument: a norm or a product is not rounded before it is rotated. Rotations have gradients, which are rotations
the other way; the fused ops run where no gradient is wanted. A fused op takes a kernel where the registry has one, and
else runs its steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bitnet_jit.devices.strided import check_memory
from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.kernels.torch.hadamard import rotate, rotate_back
from bitnet_jit.ops.arguments import PowerOfTwo, Tensor
from bitnet_jit.ops.calls import define_by_kernels, kernel_call_or
from bitnet_jit.ops.norm import ADD_RMS_NORM, RMS_NORM, SILU_MUL_NORM
from bitnet_jit.ops.op import Op, define
from bitnet_jit.ops.shapes import BlockDims, Seen
from bitnet_jit.ops.spec import OpSpec, Output, always
from bitnet_jit.ops.vocabulary import EPS, NORM_WEIGHT, PER_FEATURE
from bitnet_jit.problem import MAX_BLOCK, Problem

ROWS = BlockDims(..., "K")

BLOCK = PowerOfTwo("block", MAX_BLOCK)
X, DELTA = Tensor("x", FLOATS, ROWS), Tensor("delta", FLOATS, ROWS, like="x")
GATE, UP = Tensor("gate", FLOATS, ROWS), Tensor("up", FLOATS, ROWS, like="gate")


def example_signs(operands: Operands) -> torch.Tensor:
    """Return signs (K,) float32 that look random."""
    places = torch.arange(operands.problem.in_features, dtype=torch.int64, device="cpu")
    return 1.0 - 2.0 * (places * 7919 % 5 % 2).float()


SIGNS = Tensor("signs", (torch.float32,), PER_FEATURE, synthetic=example_signs)
OPTIONAL_SIGNS = Tensor("signs", (torch.float32,), PER_FEATURE, optional=True, field="bias", synthetic=example_signs)


def additions(problem: Problem) -> int:
    """Return the additions of the stages, log2(block) per feature."""
    return problem.rows * problem.in_features * (problem.block.bit_length() - 1)


def check_fixed(signs: torch.Tensor | None) -> None:
    """Raise InvalidInput where signs want a gradient."""
    if signs is not None and signs.requires_grad:
        raise InvalidInput("signs: requires_grad=True, but a rotation's signs are fixed; pass signs.detach()")


class HadamardFunction(torch.autograd.Function):
    """The rotation, whose gradient is the one the other way."""

    @staticmethod
    def forward(ctx: Any, x: Any, signs: Any, block: int) -> Any:
        check_fixed(signs)
        ctx.signs, ctx.block = signs, block
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.hadamard(x, signs, block)

    @staticmethod
    def surrogate(x: Any, signs: Any, block: int) -> Any:
        return rotate(x, signs, block)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        return torch.ops.bitnet_jit.inverse_hadamard(dy, ctx.signs, ctx.block), None, None


class InverseHadamardFunction(torch.autograd.Function):
    """The inverse rotation, whose gradient is the rotation."""

    @staticmethod
    def forward(ctx: Any, x: Any, signs: Any, block: int) -> Any:
        check_fixed(signs)
        ctx.signs, ctx.block = signs, block
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.bitnet_jit.inverse_hadamard(x, signs, block)

    @staticmethod
    def surrogate(x: Any, signs: Any, block: int) -> Any:
        return rotate_back(x, signs, block)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        return torch.ops.bitnet_jit.hadamard(dy, ctx.signs, ctx.block), None, None


def define_rotation(name: str, function: type[torch.autograd.Function]) -> Op:
    """Define a rotation by its name."""
    y = Output("y", ROWS, "x")
    spec = OpSpec(name, (X, OPTIONAL_SIGNS, BLOCK), (y,), exact=always, operations=additions)
    return define_by_kernels(spec, function)


HADAMARD = define_rotation("hadamard", HadamardFunction)
INVERSE_HADAMARD = define_rotation("inverse_hadamard", InverseHadamardFunction)


def norm_steps(x: Any, weight: Any, eps: Any, signs: Any, block: int) -> torch.Tensor:
    """Compute `rms_norm_hadamard` by the ops that it consists of."""
    y: torch.Tensor = HADAMARD.torch(RMS_NORM.torch(x.float(), weight, eps), signs, block)
    return y.to(x.dtype)


def add_steps(x: Any, delta: Any, weight: Any, eps: Any, signs: Any, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `add_rms_norm_hadamard` by the ops that it consists of."""
    total, y = ADD_RMS_NORM.torch(x, delta, weight, eps)
    if x.dtype != torch.float32:  # it has been rounded
        y = RMS_NORM.torch(total.float(), weight, eps)
    return total, HADAMARD.torch(y, signs, block).to(x.dtype)


def silu_steps(gate: Any, up: Any, signs: Any, block: int) -> torch.Tensor:
    """Compute `silu_mul_hadamard` by the ops that it consists of."""
    y: torch.Tensor = HADAMARD.torch(SILU_MUL_NORM.torch(gate.float(), up.float(), None, 0.0), signs, block)
    return y.to(gate.dtype)


def define_fused(spec: OpSpec, steps: Callable[..., Any]) -> Op:
    """Define an op that takes a kernel, or runs steps."""

    def compose(values: Sequence[Any], seen: Seen) -> Call:
        block = seen.values["block"]

        def call(*operands: Any) -> Any:
            check_memory(*(operand for operand in operands if isinstance(operand, torch.Tensor)))
            return steps(*operands, block)

        return call

    return define(spec, kernel_call_or(compose, spec), steps=steps)


Y, TOTAL, GATED_Y = Output("y", ROWS, "x"), Output("total", ROWS, "x"), Output("y", ROWS, "gate")
RMS_NORM_HADAMARD = define_fused(
    OpSpec("rms_norm_hadamard", (X, NORM_WEIGHT, EPS, SIGNS, BLOCK), (Y,), operations=additions), norm_steps
)
ADD_RMS_NORM_HADAMARD = define_fused(
    OpSpec("add_rms_norm_hadamard", (X, DELTA, NORM_WEIGHT, EPS, SIGNS, BLOCK), (TOTAL, Y), operations=additions),
    add_steps,
)
SILU_MUL_HADAMARD = define_fused(
    OpSpec("silu_mul_hadamard", (GATE, UP, SIGNS, BLOCK), (GATED_Y,), operations=additions), silu_steps
)
hadamard, inverse_hadamard = HADAMARD.eager, INVERSE_HADAMARD.eager
rms_norm_hadamard, add_rms_norm_hadamard = RMS_NORM_HADAMARD.eager, ADD_RMS_NORM_HADAMARD.eager
silu_mul_hadamard = SILU_MUL_HADAMARD.eager
