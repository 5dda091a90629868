"""How an op finds what runs a call: kept by everything that the check of its arguments looks at.

Kernels take addresses and check nothing. So arguments are checked when a call of their kind is made, once, and the key
of the kept calls is written from the same record as the check: what the one looks at, the other holds. It is written as
source text, as dataclasses write their methods, since a call at one row has no time for a loop over its arguments.
"""

from collections.abc import Callable
from typing import Any

from bitnet_jit.ops.arguments import Argument, Epsilon, Tensor
from bitnet_jit.ops.calls import Call, keep, make_call, new_calls
from bitnet_jit.ops.signatures import SIGNATURES
from bitnet_jit.problem import Problem

FACTS = ("shape", "dtype", "device", "layout")  # of a tensor, that checks look at
NO_KEY = (AttributeError, RuntimeError, TypeError)  # of what is no tensor, of a nested one, of an option without a hash
SOURCE = """
def key_of({names}):
    return ({facts},)

def {op}({names}):
    try:
        call = get(({facts},))
    except NO_KEY:
        call = None
    if call is None:
        call = find({names})
    return call({operands})
"""


class Lookup:
    """The calls of an op.

    Args:
        op: its name.
        make: the op's arguments, which have been checked -> what runs such arguments; it takes the tensors and the
            epsilon among them.

    Attributes:
        run: the op's implementation.
        calls: those kept.
    """

    run: Callable[..., Any]

    def __init__(self, op: str, make: Callable[..., Call]) -> None:
        self.calls, self._make, signature = new_calls(), make, SIGNATURES[op]
        self._check = signature.check
        source = SOURCE.format(
            op=op,
            names=", ".join(argument.name for argument in signature.arguments),
            facts=", ".join(map(facts, signature.arguments)),
            operands=", ".join(a.name for a in signature.arguments if isinstance(a, Tensor | Epsilon)),
        )
        scope: dict[str, Any] = {"get": self.calls.get, "find": self.find, "NO_KEY": NO_KEY}
        exec(source, scope)
        self._key, self.run = scope["key_of"], scope[op]

    def find(self, *values: Any) -> Call:
        """Return what runs such arguments, made where it is not kept yet.

        Raises:
            InvalidInput: an argument is wrong, or does not fit the others.
        """
        try:
            key = self._key(*values)
            call = self.calls.get(key)
        except NO_KEY:
            self._check(values)
            raise
        if call is None:
            self._check(values)
            call = keep(self.calls, key, self._make(*values))
        return call


class KernelLookup(Lookup):
    """The calls of an op that kernels run.

    Args:
        op: its name.
        problem: the op's arguments, which have been checked -> the problem that they pose.
    """

    def __init__(self, op: str, problem: Callable[..., Problem]) -> None:
        self.problem = problem
        super().__init__(op, lambda *values: make_call(problem(*values), values[0]))


def facts(argument: Argument) -> str:
    """Return what keys hold of an argument, as source text."""
    name = argument.name
    if not isinstance(argument, Tensor):
        return name
    of_tensor = ", ".join(f"{name}.{fact}" for fact in FACTS)
    return f"None if {name} is None else ({of_tensor})" if argument.optional else of_tensor
