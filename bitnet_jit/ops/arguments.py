"""The kinds of arguments that ops take, as records, and how an argument is checked against the others of its call.

Sizes have the names of the formulas: K inputs, N outputs, and `...` for any leading dimensions. The argument that is
checked first sets a size, and all others have to agree. Options are checked before tensors, so the tensors of a layer
are compared with its in_features and out_features. Where torch traces, sizes may be symbolic. They are compared only
where they must be, and a size that depends on values passes, since the op checks again when it runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import dtype_name
from bitnet_jit.problem import MAX_IN_FEATURES

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MAX_INT = 2**63 - 1  # of the numbers that torch's ops take
MAX_SIZES = {"K": MAX_IN_FEATURES}  # of each size by name; the others have no limit


@dataclass
class Seen:
    """What the check of a call knows so far.

    Attributes:
        values: the arguments by name.
        sizes: the sizes by name; those of the leading dimensions, a tuple, by `...`.
    """

    values: dict[str, Any]
    sizes: dict[Any, Any] = field(default_factory=dict)


class Shape(Protocol):
    """What a tensor's shape has to be."""

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        """Tell whether a shape is that, as far as can be known, and enter sizes that were unknown into `seen`."""

    def words(self, seen: Seen) -> str:
        """Return the expected shape, for a message."""


class Argument(Protocol):
    """An argument of an op."""

    @property
    def name(self) -> str:
        """Return its name in the op's schema."""

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless the value fits what has been seen."""


def certainly(condition: Any) -> bool:
    """Tell whether a condition on sizes holds; one that depends on values does not count as certain."""
    if not isinstance(condition, torch.SymBool):
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols  # it takes long to import

    return not free_unbacked_symbols(condition) and bool(condition)


def differ(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    """Tell whether two shapes certainly differ."""
    return len(sizes) != len(others) or any(certainly(a != b) for a, b in zip(sizes, others, strict=True))


class Dims:
    """Dimensions by the names of their sizes, such as `Dims(..., "K")`."""

    def __init__(self, *names: Any) -> None:
        self.leading = names[:1] == (...,)
        self.names: tuple[str, ...] = names[self.leading :]

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        first = len(shape) - len(self.names)
        if first < 0 or first and not self.leading:
            return False
        if self.leading and differ(shape[:first], seen.sizes.setdefault(..., shape[:first])):
            return False
        return all(size_fits(size, name, seen) for size, name in zip(shape[first:], self.names, strict=True))

    def words(self, seen: Seen) -> str:
        """Return the expected shape, for a message.

        >>> Dims(..., "K").words(Seen({})), Dims("N").words(Seen({}, {"N": 3}))
        ('(..., K) with K from 1 to 262144', '(3,)')
        """
        sizes = [str(size) for size in seen.sizes.get(..., ("...",))] if self.leading else []
        sizes += [str(seen.sizes.get(name, name)) for name in self.names]
        limits = [limits_of(name) for name in self.names if name not in seen.sizes]
        text = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
        return f"{text} with {' and '.join(limits)}" if limits else text


def size_fits(size: Any, name: str, seen: Seen) -> bool:
    """Tell whether a size is within its limits, and the same as before where one is known by its name."""
    known = seen.sizes.setdefault(name, size)
    return not (certainly(size < 1) or certainly(size > MAX_SIZES.get(name, size)) or certainly(size != known))


def limits_of(name: str) -> str:
    """Return the limits of a size, for a message."""
    return f"{name} from 1 to {MAX_SIZES[name]}" if name in MAX_SIZES else f"{name} of at least 1"


class PackedShape:
    """The shape of a packed weight in the layout of its call."""

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        return not differ(shape, self._expected(seen))

    def words(self, seen: Seen) -> str:
        sizes, layout = seen.sizes, seen.values["layout"]
        return f"{self._expected(seen)} for {sizes['N']} x {sizes['K']} in layout {layout!r}"

    def _expected(self, seen: Seen) -> tuple[Any, ...]:
        return registry.get_layout(seen.values["layout"]).shape(seen.sizes["N"], seen.sizes["K"])


class ScaleShape:
    """The shape of a weight's scales: one for the tensor, one for each row, or one for each group of its inputs."""

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        return any(not differ(shape, expected) for expected in self._expected(seen))

    def words(self, seen: Seen) -> str:
        return f"{' or '.join(map(str, self._expected(seen)))} with group_size={seen.values['group_size']}"

    def _expected(self, seen: Seen) -> tuple[tuple[Any, ...], ...]:
        n, k, group_size = seen.sizes["N"], seen.sizes["K"], seen.values["group_size"]
        return ((n, -(-k // group_size)),) if certainly(group_size > 0) else ((), (n,))


@dataclass(frozen=True)
class Tensor:
    """A tensor.

    Attributes:
        name: as in the op's schema.
        dtypes: the allowed ones.
        shape: what it has to be.
        optional: whether None may stand for it.
        like: another argument, whose dtype it has to have.
    """

    name: str
    dtypes: tuple[torch.dtype, ...]
    shape: Shape
    optional: bool = False
    like: str = ""

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


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `least`.

    Attributes:
        name: as in the op's schema.
        least: the lowest number allowed.
        size: the name of the size that it sets, if it does: it is within the limits of that.
    """

    name: str
    least: int = 0
    size: str = ""

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is a whole number in its range."""
        whole = isinstance(value, Integral | torch.SymInt)
        most = MAX_SIZES.get(self.size, MAX_INT)
        if not whole or certainly(value < self.least) or certainly(value > most):
            raise InvalidInput(f"{self.name}: expected a whole number from {self.least} to {most}, got {value!r}")
        if isinstance(value, Integral):
            seen.values[self.name] = value = int(value)  # NumPy's numbers may overflow in what is computed of them
        if self.size:
            seen.sizes[self.size] = value


@dataclass(frozen=True)
class Epsilon:
    """What a norm adds to the mean of squares."""

    name: str

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is a finite number of at least 0."""
        if isinstance(value, torch.SymFloat):
            return  # the op itself sees its value
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InvalidInput(f"{self.name}: expected a finite number of at least 0, got {value!r}")


@dataclass(frozen=True)
class Word:
    """One of a few words."""

    name: str
    words: tuple[str, ...]

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is one of them."""
        if not isinstance(value, str) or value not in self.words:
            raise InvalidInput(f"{self.name}: expected one of {', '.join(self.words)}, got {value!r}")


@dataclass(frozen=True)
class LayoutName:
    """The name of a packed weight's layout."""

    name: str

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless there is such a layout."""
        if not isinstance(value, str):
            raise InvalidInput(f"{self.name}: expected the name of a layout, got {value!r}")
        registry.get_layout(value)


@dataclass(frozen=True)
class Dtype:
    """A dtype of floats."""

    name: str

    def check(self, value: Any, seen: Seen) -> None:
        """Raise InvalidInput unless it is one of FLOATS."""
        if not isinstance(value, torch.dtype) or value not in FLOATS:
            raise InvalidInput(f"{self.name}: expected one of {', '.join(map(str, FLOATS))}, got {value!r}")
