"""How an op finds what runs a call: kept by everything that the check of its arguments looks at.

Kernels take addresses and check nothing. So arguments are checked when a call of their kind is made, once, and the key
of the kept calls is written from the same record as the check: what the one looks at, the other holds. It is written as
source text, as dataclasses write their methods, since a call at one row has no time for a loop over its arguments.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bitnet_jit.kernels.backend import Call
from bitnet_jit.ops.arguments import Argument, Tensor
from bitnet_jit.ops.call_cache import keep, new_calls
from bitnet_jit.problem import rows_bucket

if TYPE_CHECKING:
    from bitnet_jit.ops.shapes import Seen
    from bitnet_jit.ops.spec import OpSpec

FACTS = ("dtype", "device", "layout")  # of a tensor beside its shape, that checks look at
NO_KEY = (AttributeError, IndexError, RuntimeError, TypeError)  # of no tensor, few dimensions, nested, without a hash
SOURCE = """
def key_of({parameters}):
    return ({facts},)

def {op}({parameters}):
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
        spec: the op.
        make: (arguments that have been checked, what the check has seen) -> what runs such arguments; it takes the
            tensors and the epsilon among them.

    Attributes:
        run: the op's implementation.
        calls: those kept.
    """

    run: Callable[..., Any]

    def __init__(self, spec: "OpSpec", make: "Callable[[tuple[Any, ...], Seen], Call]") -> None:
        self.spec, self.calls, self._make = spec, new_calls(), make
        source = SOURCE.format(
            op=spec.name,
            parameters=", ".join(map(parameter, spec.arguments)),
            names=", ".join(argument.name for argument in spec.arguments),
            facts=", ".join(facts_of(spec)),
            operands=", ".join(spec.operands),
        )
        scope: dict[str, Any] = {
            "get": self.calls.get,
            "find": self.find,
            "NO_KEY": NO_KEY,
            "rows_bucket": rows_bucket,
        }
        exec(source, scope)
        self._key, self.run = scope["key_of"], scope[spec.name]

    def find(self, *values: Any) -> Call:
        """Return what runs such arguments, made where it is not kept yet.

        Raises:
            InvalidInput: an argument is wrong, or does not fit the others.
        """
        try:
            key = self._key(*values)
            call = self.calls.get(key)
        except NO_KEY:
            self.spec.check(values)
            raise
        return keep(self.calls, key, self._make(values, self.spec.check(values))) if call is None else call


def parameter(argument: Argument) -> str:
    """Return an argument as a function's parameter, as source text."""
    default = getattr(argument, "default", None)
    return argument.name if default is None else f"{argument.name}={default!r}"


def facts_of(spec: "OpSpec") -> list[str]:
    """Return what keys hold of each argument, as source text."""
    known: dict[Any, str] = {}
    return [facts(argument, spec.varying, known) for argument in spec.arguments]


def facts(argument: Argument, varying: tuple[Any, ...], known: dict[Any, str]) -> str:
    """Return what keys hold of an argument, as source text; `known` has source text for sizes that vary."""
    name = argument.name
    if not isinstance(argument, Tensor):
        return name
    shape = facts_of_shape(name, argument.shape, varying, known) if varying else [f"{name}.shape"]
    of_tensor = ", ".join((*shape, *(f"{name}.{fact}" for fact in FACTS)))
    of_tensor += f", {name}.is_contiguous()" if argument.written else ""
    return f"None if {name} is None else ({of_tensor})" if argument.optional else of_tensor


def facts_of_shape(name: str, shape: Any, varying: tuple[Any, ...], known: dict[Any, str]) -> list[str]:
    """Return what keys hold of a shape: sizes, and of those that vary whether they agree with the ones before."""
    first = len(shape.names)
    if not shape.has_rows and not any(getattr(size, "base", size) in varying for size in shape.names):
        return [f"{name}.shape"]
    if shape.has_rows:
        leading = f"{name}.shape[:-{first}]" if first else f"{name}.shape"
        result = [f"{leading} == {known[...]}" if ... in known else f"rows_bucket({leading}.numel())"]
        known.setdefault(..., leading)
    else:
        result = [f"{name}.dim()"]
    for place, size in enumerate(shape.names, -first):
        source, base, more = f"{name}.shape[{place}]", getattr(size, "base", size), getattr(size, "more", 0)
        if base not in varying:
            result.append(source)
        elif base in known:
            result.append(f"{source} == {known[base]} + {more}")
        else:
            known[base] = f"({source} - {more})"
            result.append(f"{source} > {more}")
    return result
