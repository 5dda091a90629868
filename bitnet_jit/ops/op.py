"""An op: its record, what runs its calls, and its name in torch. `define` makes one; OPS has them all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.call_cache import Calls
from bitnet_jit.ops.library import eager, overload_of, register
from bitnet_jit.ops.lookup import Lookup

if TYPE_CHECKING:
    from bitnet_jit.ops.shapes import Seen
    from bitnet_jit.ops.spec import OpSpec


@dataclass(frozen=True)
class Op:
    """An op.

    Attributes:
        spec: what it is.
        torch: torch's object for it, which sees every tracer, mode and gradient: (*arguments) -> output or outputs.
        run: its implementation, for plain tensors that want no gradient: the same arguments.
        eager: as our modules call it: `run` where torch has nothing to add, else `torch`.
        find: the same arguments -> the call that runs such arguments, which takes the tensors and the epsilon.
        calls: those that `find` keeps.
        by_kernels: whether kernels run it; else it is made of other ops.
        steps: the same arguments -> output or outputs, by the ops that it is made of, as torch's watchers see them.
    """

    spec: "OpSpec"
    torch: Any
    run: Callable[..., Any]
    eager: Callable[..., Any]
    find: Callable[..., Call]
    calls: Calls
    by_kernels: bool
    steps: Callable[..., Any] | None


OPS: dict[str, Op] = {}  # by name


def define(
    spec: "OpSpec",
    make: "Callable[[tuple[Any, ...], Seen], Call]",
    function: type[torch.autograd.Function] | None = None,
    autocast: bool = False,
    steps: Callable[..., Any] | None = None,
    by_kernels: bool = False,
) -> Op:
    """Register an op with torch, under `torch.ops.bitnet_jit`.

    Args:
        spec: what it is.
        make: (arguments that have been checked, what the check has seen) -> what runs such arguments; it takes the
            tensors and the epsilon among them.
        function: the op's autograd twin, whose apply takes the op's arguments; its `surrogate` takes them, too, and
            computes by torch's own operations something that has the derivatives, of every order and direction. Ops
            with one take a nested tensor in first place.
        autocast: whether the first argument is cast to autocast's dtype, as nn.Linear does with its input.
        steps: of an op that is made of others: computes by those, and serves as the fake implementation, too, so that
            a watcher of fake tensors sees them.
        by_kernels: whether `make` chooses a kernel; see `calls.define_by_kernels`.
    """
    lookup = Lookup(spec, make)
    register(spec, lookup.run, steps or (lambda *values: spec.fake(values)), function, autocast)
    call = eager(spec.name, lookup.run, takes_nested=function is not None)
    OPS[spec.name] = Op(spec, overload_of(spec.name), lookup.run, call, lookup.find, lookup.calls, by_kernels, steps)
    return OPS[spec.name]
