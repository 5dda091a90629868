"""`Keys`: the metadata of a GGUF file, each value checked for type and range as it is taken."""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitnet_jit.checkpoints.formats.fields import REQUIRED, Fields
from bitnet_jit.checkpoints.formats.gguf.values import Strings

SHOWN = 7  # of an array's values, in an error


class Keys(Fields):
    """The keys of a file; `where` (the file) begins every error. Arrays are `Strings` or NumPy arrays."""

    def has(self, name: str) -> bool:
        """Return whether there is a key."""
        return name in self.values

    def text(self, name: str, default: Any = REQUIRED) -> str:
        """Return a string."""
        value = self.take(name, default, "a string")
        if not isinstance(value, str):
            raise self.refuse(name, "a string")
        return value

    def strings(self, name: str) -> Sequence[str]:
        """Return an array of strings."""
        value = self.take(name, REQUIRED, "an array of strings")
        if not isinstance(value, Strings):
            raise self.refuse(name, "an array of strings")
        try:
            return list(value)
        except ValueError as error:
            raise self.refuse(name, f"strings of UTF-8 ({error})") from error

    def numbers(self, name: str, count: int, default: float) -> "np.ndarray[Any, Any]":
        """Return an array of `count` numbers, or as many of the default."""
        value = self.take(name, np.full(count, default), f"an array of {count} numbers")
        if not isinstance(value, np.ndarray) or len(value) != count:
            raise self.refuse(name, f"an array of {count} numbers")
        return value

    def whole_numbers(self, name: str) -> "np.ndarray[Any, Any]":
        """Return an array of whole numbers, of any length."""
        value = self.take(name, REQUIRED, "an array of whole numbers")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
            raise self.refuse(name, "an array of whole numbers")
        return value

    def same_integer(self, name: str, default: Any = REQUIRED, low: int = 1, high: int = 2**31 - 1) -> int:
        """Return a whole number, which may also be an array of the same number per layer."""
        value = self.values.get(name)
        if not isinstance(value, np.ndarray):
            return self.integer(name, default, low, high)
        if not len(value) or (value != value[0]).any():
            raise self.refuse(name, "the same number for each layer")
        return Fields({name: int(value[0])}, self.where).integer(name, default, low, high)

    def token(self, name: str, num_tokens: int) -> int | None:
        """Return the id of a token, None where there is no such key."""
        return self.integer(name, low=0, high=num_tokens - 1) if self.has(name) else None

    def refuse(self, name: str, expected: str) -> Any:
        """Make the error for a key that holds something else than expected; a long array is not shown whole."""
        value = self.values.get(name)
        if isinstance(value, (Strings, np.ndarray)):
            first = value[:SHOWN].tolist() if isinstance(value, np.ndarray) else value.first(SHOWN)
            shown = f"an array of {len(value)}: {reprlib.repr(first)}"
            return Fields({name: Shown(shown)}, self.where).refuse(name, expected)
        return super().refuse(name, expected)


class Shown(str):
    """Words that an error quotes as they are."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
