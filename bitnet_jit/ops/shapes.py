"""The shapes that tensors of a call have to have, in the names of their sizes.

Sizes have the names of the formulas: K inputs, N outputs, and `...` for any leading dimensions. The argument that is
checked first sets a size, and all others have to agree. Where torch traces, sizes may be symbolic. They are compared
only where they must be, and a size that depends on values passes, since the op checks again when it runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from bitnet_jit.problem import MAX_HEAD_DIM, MAX_IN_FEATURES, MAX_TAPS, SCALES

if TYPE_CHECKING:
    from bitnet_jit.packing.layout import Layout

MAX_SIZES = {  # of each size by name; the others have no limit
    "K": MAX_IN_FEATURES,
    "D": MAX_HEAD_DIM,
    "V": MAX_HEAD_DIM,
    "J": MAX_TAPS - 1,
}


@dataclass(frozen=True)
class Plus:
    """A size by the name of another one, and how much larger it is.

    >>> str(Plus("R", 1))
    'R + 1'
    """

    base: str
    more: int

    def __str__(self) -> str:
        return f"{self.base} + {self.more}"


Name = str | int | Plus  # of a size: a number stands for itself


@dataclass
class Seen:
    """What the check of a call knows so far.

    Attributes:
        values: the arguments by name.
        sizes: the sizes by name; those of the leading dimensions, a tuple, by `...`.
        layout: of the packed weight.
    """

    values: dict[str, Any]
    sizes: dict[Any, Any] = field(default_factory=dict)
    layout: "Layout | None" = None


class Shape(Protocol):
    """What a tensor's shape has to be."""

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        """Tell whether a shape is that, as far as can be known, and enter sizes that were unknown into `seen`."""

    def sizes(self, seen: Seen) -> tuple[Any, ...]:
        """Return the shape, of sizes that have been seen."""

    def words(self, seen: Seen) -> str:
        """Return the expected shape, for a message."""

    @property
    def has_rows(self) -> bool:
        """Return whether the leading dimensions come first."""


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
    """Dimensions by the names of their sizes, such as `Dims(..., "K")`; a number is a size that is always the same."""

    def __init__(self, *names: Any) -> None:
        self.has_rows = names[:1] == (...,)
        self.names: tuple[Name, ...] = names[self.has_rows :]

    def sizes(self, seen: Seen) -> tuple[Any, ...]:
        leading = seen.sizes[...] if self.has_rows else ()
        return (*leading, *(known_size(name, seen.sizes) for name in self.names))

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        first = len(shape) - len(self.names)
        if first < 0 or first and not self.has_rows:
            return False
        if self.has_rows and differ(shape[:first], seen.sizes.setdefault(..., shape[:first])):
            return False
        return all(size_fits(size, name, seen) for size, name in zip(shape[first:], self.names, strict=True))

    def words(self, seen: Seen) -> str:
        """Return the expected shape, for a message.

        >>> Dims(..., "K").words(Seen({})), Dims("N").words(Seen({}, {"N": 3}))
        ('(..., K) with K from 1 to 262144', '(3,)')
        """
        sizes = [str(size) for size in seen.sizes.get(..., ("...",))] if self.has_rows else []
        known = [known_size(name, seen.sizes) for name in self.names]
        sizes += [str(name if size is None else size) for name, size in zip(self.names, known, strict=True)]
        limits = [limits_of(name) for name, size in zip(self.names, known, strict=True) if size is None]
        text = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
        return f"{text} with {' and '.join(limits)}" if limits else text


class BlockDims(Dims):
    """Dimensions of which the last one is whole blocks, of as many features as the argument `block` says."""

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        return super().fits(shape, seen) and not certainly(shape[-1] % seen.values["block"] != 0)

    def words(self, seen: Seen) -> str:
        return f"{super().words(seen)} in whole blocks of {seen.values['block']}"


def known_size(name: Name, sizes: dict[Any, Any]) -> Any:
    """Return the size of a name, or None where it has not been seen."""
    if isinstance(name, Plus):
        base = sizes.get(name.base)
        return None if base is None else base + name.more
    return name if isinstance(name, int) else sizes.get(name)


def size_fits(size: Any, name: Name, seen: Seen) -> bool:
    """Tell whether a size is within its limits, and the same as before where one is known by its name."""
    if isinstance(name, int):
        return not certainly(size != name)
    if isinstance(name, Plus):
        return size_fits(size - name.more, name.base, seen)
    known = seen.sizes.setdefault(name, size)
    return not (certainly(size < 1) or certainly(size > MAX_SIZES.get(name, size)) or certainly(size != known))


def limits_of(name: Name) -> str:
    """Return the limits of a size, for a message."""
    if isinstance(name, Plus):
        return limits_of(name.base)
    return (
        f"{name} from 1 to {MAX_SIZES[name]}"
        if isinstance(name, str) and name in MAX_SIZES
        else f"{name} of at least 1"
    )


class PackedShape:
    """The shape of a packed weight in the layout of its call."""

    has_rows = False

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        return not differ(shape, self.sizes(seen))

    def sizes(self, seen: Seen) -> tuple[Any, ...]:
        assert seen.layout is not None
        return seen.layout.shape(seen.sizes["N"], seen.sizes["K"])

    def words(self, seen: Seen) -> str:
        sizes, layout = seen.sizes, seen.values["layout"]
        return f"{self.sizes(seen)} for {sizes['N']} x {sizes['K']} in layout {layout!r}"


class ScaleShape:
    """The shape of a weight's scales: one for the tensor, one for each row, or one for each group of its inputs."""

    has_rows = False

    def sizes(self, seen: Seen) -> tuple[Any, ...]:
        shapes = self._expected(seen)
        return shapes[0] if len(shapes) == 1 else shapes[SCALES.index(seen.values["scale"])]

    def fits(self, shape: Sequence[Any], seen: Seen) -> bool:
        return any(not differ(shape, expected) for expected in self._expected(seen))

    def words(self, seen: Seen) -> str:
        return f"{' or '.join(map(str, self._expected(seen)))} with group_size={seen.values['group_size']}"

    def _expected(self, seen: Seen) -> tuple[tuple[Any, ...], ...]:
        n, k, group_size = seen.sizes["N"], seen.sizes["K"], seen.values["group_size"]
        return ((n, -(-k // group_size)),) if certainly(group_size > 0) else ((), (n,))
