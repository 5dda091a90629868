"""How an op finds what runs a call: kept by everything that the check of its arguments looks at.

Kernels take addresses and check nothing. So arguments are checked when a call of their kind is made, once, and the key
of the kept calls is written from the same record as the check: what the one looks at, the other holds. It is written as
source text, as dataclasses write their methods, since a call at one row has no time for a loop over its arguments.
"""

from collections.abc import Callable
from typing import Any

from bitnet_jit.ops.arguments import Argument, Tensor
from bitnet_jit.ops.calls import Call, keep, make_call, new_calls
from bitnet_jit.ops.signatures import SIGNATURES
from bitnet_jit.problem import Problem

FACTS = ("shape", "dtype", "device", "layout")  # of a tensor, that checks look at
SOURCE = """
def find({names}):
    try:
        key = ({facts},)
        call = get(key)
    except (AttributeError, RuntimeError, TypeError):  # no tensor, a nested one, an option without a hash
        check(({names},))
        raise
    return make(key, ({names},)) if call is None else call
"""


class Lookup:
    """The calls of an op.

    Args:
        op: its name.
        make: the op's arguments, which have been checked -> what runs such arguments.

    Attributes:
        find: the op's arguments -> what runs such. Raises InvalidInput where one is wrong or does not fit the others.
        calls: those kept.
    """

    find: Callable[..., Call]

    def __init__(self, op: str, make: Callable[..., Call]) -> None:
        self.calls, signature = new_calls(), SIGNATURES[op]

        def make_and_keep(key: tuple[Any, ...], values: tuple[Any, ...]) -> Call:
            signature.check(values)
            return keep(self.calls, key, make(*values))

        names = ", ".join(argument.name for argument in signature.arguments)
        source = SOURCE.format(names=names, facts=", ".join(map(facts, signature.arguments)))
        scope = {"get": self.calls.get, "make": make_and_keep, "check": signature.check}
        exec(source, scope)
        self.find = scope["find"]  # type: ignore[assignment]


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
    """What keys hold of an argument, as source text."""
    name = argument.name
    if not isinstance(argument, Tensor):
        return name
    all_facts = ", ".join(f"{name}.{fact}" for fact in FACTS)
    return f"None if {name} is None else ({all_facts})" if argument.optional else all_facts
