"""From a problem to a callable on tensors, made once and kept: what stands between an op and a launch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from bitnet_jit.devices.kinds import kind_named
from bitnet_jit.errors import UnsupportedProblem
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.call_cache import forget_calls
from bitnet_jit.ops.op import Op, define
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.dispatcher import Dispatcher

if TYPE_CHECKING:
    from bitnet_jit.ops.shapes import Seen
    from bitnet_jit.ops.spec import OpSpec

DISPATCHER = Dispatcher()


def make_call(problem: Problem, operands: Operands, device: torch.device) -> Call:
    """Return the call for a problem: the dispatcher's choice, bound to tensors on a device by its backend."""
    may_tune = not kind_named(problem.device_type).is_capturing()
    choice = DISPATCHER.choose(problem, device if may_tune else None)
    return bind_call(choice.kernel, choice.bound, operands, device)


def bind_call(kernel: Kernel, bound: Any, operands: Operands, device: torch.device) -> Call:
    """Return the call of a bound kernel."""
    return registry.BACKENDS[kernel.backend].bind_call(bound, operands, device)


def forget() -> None:
    """Choose anew from now on: what has been tuned meanwhile is found at the next call of each kind."""
    forget_calls()
    DISPATCHER.forget()


def kernel_call(spec: "OpSpec", values: Sequence[Any], seen: "Seen") -> Call:
    """Return what runs arguments that have been checked, by the kernel that is chosen for their problem."""
    problem = spec.problem(seen)
    return make_call(problem, spec.operands_of(problem, seen.sizes.get(..., ())), values[0].device)


def kernel_call_or(compose: "Callable[[Sequence[Any], Seen], Call]", spec: "OpSpec") -> "Callable[[Any, Seen], Call]":
    """Return what makes the calls of an op of several steps: one kernel where there is one for the problem, else steps.

    Args:
        compose: (arguments that have been checked, what the check has seen) -> the steps, one behind the other.
        spec: of the op; its kernels must give the bits of the steps.
    """

    def make(values: Sequence[Any], seen: "Seen") -> Call:
        try:
            return kernel_call(spec, values, seen)
        except UnsupportedProblem:
            return compose(values, seen)

    return make


def define_by_kernels(
    spec: "OpSpec", function: type[torch.autograd.Function] | None = None, autocast: bool = False
) -> Op:
    """Define an op that kernels run; the arguments are those of `op.define`."""
    return define(spec, partial(kernel_call, spec), function, autocast, by_kernels=True)
