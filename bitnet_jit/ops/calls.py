"""From a problem to a callable on tensors, made once and kept: what stands between an op and a launch."""

from typing import Any

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.dispatcher import Dispatcher

DISPATCHER = Dispatcher()
MAX_CALLS = 4096  # kept per op: shapes may vary without end
Calls = dict[tuple[Any, ...], Call]
KEPT: list[Calls] = []  # of all ops


def make_call(problem: Problem, operands: Operands, device: torch.device) -> Call:
    """Return the call for a problem: the dispatcher's choice, bound to tensors by its backend."""
    may_tune = not kind_of(device).is_capturing()
    choice = DISPATCHER.choose(problem, device if may_tune else None)
    return bind_call(choice.kernel, choice.bound, operands, device)


def bind_call(kernel: Kernel, bound: Any, operands: Operands, device: torch.device) -> Call:
    """Return the call of a bound kernel."""
    return registry.BACKENDS[kernel.backend].bind_call(bound, operands, device)


def new_calls() -> Calls:
    """Return where an op keeps its calls, by all that their kernels rely on."""
    KEPT.append({})
    return KEPT[-1]


def forget() -> None:
    """Choose anew from now on: what has been tuned meanwhile is found at the next call of each kind."""
    for calls in KEPT:
        calls.clear()
    DISPATCHER.forget()


def keep(calls: Calls, key: tuple[Any, ...], call: Call) -> Call:
    """Remember a call; after very many shapes, forget the others."""
    if len(calls) >= MAX_CALLS:
        calls.clear()
    calls[key] = call
    return call
