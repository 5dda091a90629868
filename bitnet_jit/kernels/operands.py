"""The tensors and numbers of one call of an op, as kernels see them: names, shapes and dtypes, and no values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class Operand:
    """A tensor that a call hands over, or one that it gives back.

    Attributes:
        name: as in the op's schema.
        shape: its sizes.
        dtype: its name in torch's and NumPy's words, such as "bfloat16"; "" for an optional tensor that is absent.
        has_rows: whether the leading dimensions of the call come first in its shape.
        written: whether the op writes into it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    has_rows: bool = False
    written: bool = False


@dataclass(frozen=True)
class Operands:
    """The operands of one call.

    Attributes:
        problem: what the call asks for.
        arguments: the names of what a call takes, in order: tensors and numbers (a norm's epsilon).
        inputs: the tensors among them.
        outputs: what the call returns, in order.
        leading: the leading dimensions, whose product is the number of rows; () for an op on a weight.
        varying: the call serves any number of rows: leading and the shapes are an example.
    """

    problem: "Problem"
    arguments: tuple[str, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    leading: tuple[int, ...]
    varying: bool = False

    @property
    def rows(self) -> int:
        """Return the number of rows; 1 for an op on a weight."""
        return prod(self.leading)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the names of the arguments that are numbers."""
        tensors = {operand.name for operand in self.inputs}
        return tuple(name for name in self.arguments if name not in tensors)

    def with_shapes(self, shapes: Sequence[Sequence[int] | None]) -> "Operands":
        """Return the operands of a call by the shapes of its arguments, all of which are tensors or absent (None)."""
        inputs = tuple(replace(a, shape=tuple(shape or ())) for a, shape in zip(self.inputs, shapes, strict=True))
        leading, before = inputs[0].shape[:-1], len(self.leading)
        outputs = tuple(replace(a, shape=(*leading, *a.shape[before:])) for a in self.outputs)
        return replace(self, inputs=inputs, outputs=outputs, leading=leading, varying=False)
