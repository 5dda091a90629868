"""The record of a kernel that is bound to a problem: all that a caller with addresses needs to run it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGN = 64  # of scratch memory, in bytes
ROW_STRIDE = "row_stride"  # an operand: elements from row to row of gate and up, which may be parts of one tensor
Entry = Callable[..., None]
Operands = tuple[str | float | None, ...]


@dataclass(frozen=True)
class Bound:
    """A kernel bound to a problem.

    Call entry(rows)(None, fork, threads, *operands, *numbers(rows), workspace) with addresses of contiguous arrays, the
    address of the threads' source (`Fork.address`), and the address of scratch memory.

    A kernel for calls of any size (`Operands.varying`) takes other numbers behind the operands: rows, the sizes that it
    names, and the bytes of scratch memory.

    Attributes:
        operands: in the entry's order: the names of the op's tensors and numbers, as its schema and its outputs name
            them; None where the op lacks one, and 0 is handed; a float where that number is handed.
        entry: number of rows -> the compiled entry point, the same one for the same number.
        numbers: number of rows -> the int64 numbers behind the operands. An `Address` among them has to be kept for as
            long as it is handed over.
        workspace_bytes: (rows, threads, *sizes) -> bytes of scratch memory, 64-byte aligned.
        max_threads: ask for no more threads than this; None: the kernel decides by its numbers.
        sizes: of a kernel for calls of any size: operands, and which of their dimensions it takes.
    """

    operands: Operands
    entry: Callable[[int], Entry]
    numbers: Callable[[int], tuple[int, ...]]
    workspace_bytes: Callable[..., int]
    max_threads: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()


class Address(int):
    """The address of an array, which lives as long as this number does."""

    owner: NDArray[Any]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Address":
        """Return the address of a contiguous array."""
        address = cls(array.ctypes.data)
        address.owner = array
        return address


def without(operands: Operands, name: str) -> Operands:
    """Return operands with 0 handed in the place of the one of that name.

    >>> without(("x", "weight", 0.0, "y"), "weight")
    ('x', None, 0.0, 'y')
    """
    return tuple(None if operand == name else operand for operand in operands)


def int64_address(values: tuple[int, ...]) -> Address:
    """Return the address of numbers in memory, as int64."""
    return Address.of(np.array(values, np.int64))


def round_up(value: int, multiple: int) -> int:
    """Return the next multiple at or above a value."""
    return -(-value // multiple) * multiple
