"""The kinds of arguments that ops take, as records, and how an argument is checked against the others of its call.

Options are checked before tensors, so the tensors of a layer are compared with its in_features and out_features.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch

from bitnet_jit.dtypes import FLOATS, dtype_name
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.shapes import MAX_SIZES, Seen, Shape, certainly
from bitnet_jit.problem import Problem

MAX_INT = 2**63 - 1  # of the numbers that torch's ops take


class Argument(Protocol):
    """An argument of an op."""

    @property
    def name(self) -> str:
        """Return its name in the op's schema."""

    @property
    def schema_type(self) -> str:
        """Return torch's word for its type in a schema."""

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless the value fits what has been seen."""


@dataclass(frozen=True)
class Tensor:
    """A tensor.

    Attributes:
        name: as in the op's schema.
        dtypes: the allowed ones.
        shape: what it has to be.
        optional: whether None may stand for it.
        like: another argument, whose dtype it has to have.
        field: the field of Problem that holds its dtype, where several are allowed or it may be absent.
        written: the letter of torch's schemas for a tensor that the op writes into, which has to be contiguous; "".
        synthetic: operands of a call -> its values there, for calls that are timed or compared; None: any will do.
    """

    name: str
    dtypes: tuple[torch.dtype, ...]
    shape: Shape
    optional: bool = False
    like: str = ""
    field: str = "x_dtype"
    written: str = ""
    synthetic: Callable[[Operands], torch.Tensor] | None = None

    @property
    def schema_type(self) -> str:
        """Return torch's word for its type in a schema."""
        if self.written:
            return f"Tensor({self.written}!){'?' if self.optional else ''}"
        return "Tensor?" if self.optional else "Tensor"

    def dtype_in(self, problem: Problem) -> str:
        """Return the name of its dtype in calls that pose a problem; "" where it is absent."""
        if len(self.dtypes) == 1 and not self.optional:
            return dtype_name(self.dtypes[0])
        dtype: str = getattr(problem, self.field)
        return dtype

    def check_kind(self, value: Any) -> None:
        """Raise InvalidInput unless it is a tensor whose numbers lie in memory as its strides tell, or may be None."""
        if value is None and self.optional:
            return
        if not isinstance(value, torch.Tensor):
            raise InvalidInput(f"{self.name}: expected a tensor, got {value!r}")
        if value.layout != torch.strided or value.is_nested:
            kind = "a nested tensor" if value.is_nested else f"one of the layout {value.layout}"
            raise InvalidInput(f"{self.name}: expected a dense, strided tensor, got {kind}; convert it with to_dense()")

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless dtype, shape and device fit."""
        if value is None:
            return
        dtypes = (seen.values[self.like].dtype,) if self.like else self.dtypes
        before = seen.sizes.copy()
        if value.dtype not in dtypes or not self.shape.fits(value.shape, seen):
            seen.sizes = before
            raise InvalidInput(
                f"{self.name}: expected {', '.join(map(dtype_name, dtypes))} {self.shape.words(seen)}"
                f"{self.like and f' as {self.like}'}, got {value.dtype} {tuple(value.shape)}"
            )
        name, first = next(iter(seen.values.items()))
        if value.device != first.device:
            raise InvalidInput(f"{self.name}: is on {value.device}, {name} on {first.device}; move one of them")
        if self.written and not value.is_contiguous():
            raise InvalidInput(
                f"{self.name}: is written into, so that it has to be contiguous, got the strides {value.stride()}"
            )


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `minimum`.

    Attributes:
        name: as in the op's schema.
        minimum: the lowest number allowed.
        size: the name of the size that it sets, if it does: it is within the limits of that.
        default: what stands for it where the last arguments of a call are missing.
    """

    name: str
    minimum: int = 0
    size: str = ""
    default: int | None = None

    schema_type = "int"

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is a whole number in its range."""
        whole = isinstance(value, Integral | torch.SymInt)
        maximum = MAX_SIZES.get(self.size, MAX_INT)
        if not whole or certainly(value < self.minimum) or certainly(value > maximum):
            raise InvalidInput(f"{self.name}: expected a whole number from {self.minimum} to {maximum}, got {value!r}")
        if isinstance(value, Integral):
            seen.values[self.name] = value = int(value)  # NumPy's numbers may overflow in what is computed of them
        if self.size:
            seen.sizes[self.size] = value


@dataclass(frozen=True)
class PowerOfTwo:
    """A power of two, from 1 to `maximum`."""

    name: str
    maximum: int

    schema_type = "int"

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is one."""
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not 1 <= value <= self.maximum or int(value).bit_count() != 1:
            raise InvalidInput(f"{self.name}: expected a power of two from 1 to {self.maximum}, got {value!r}")


@dataclass(frozen=True)
class Epsilon:
    """What a norm adds to the mean of squares."""

    name: str

    schema_type = "float"

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is a finite number of at least 0."""
        if isinstance(value, torch.SymFloat):
            return  # the op itself sees its value
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InvalidInput(f"{self.name}: expected a finite number of at least 0, got {value!r}")


@dataclass(frozen=True)
class Word:
    """One of a few words.

    Attributes:
        name: as in the op's schema.
        words: the allowed ones.
        by_groups: those that go with group scales only.
    """

    name: str
    words: tuple[str, ...]
    by_groups: tuple[str, ...] = ()

    schema_type = "str"

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is one of them, and goes with the scales."""
        if not isinstance(value, str) or value not in self.words:
            raise InvalidInput(f"{self.name}: expected one of {', '.join(self.words)}, got {value!r}")
        if value in self.by_groups and certainly(seen.values["group_size"] == 0):
            raise InvalidInput(f"{self.name}: {value!r} goes with group scales, got group_size=0")


@dataclass(frozen=True)
class LayoutName:
    """The name of a packed weight's layout."""

    name: str

    schema_type = "str"

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless there is such a layout."""
        if not isinstance(value, str):
            raise InvalidInput(f"{self.name}: expected the name of a layout, got {value!r}")
        seen.layout = registry.get_layout(value)


@dataclass(frozen=True)
class Dtype:
    """A dtype of floats."""

    name: str

    schema_type = "ScalarType"

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is one of FLOATS."""
        if not isinstance(value, torch.dtype) or value not in FLOATS:
            raise InvalidInput(f"{self.name}: expected one of {', '.join(map(str, FLOATS))}, got {value!r}")
