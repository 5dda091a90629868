"""JSON files of unknown origin: read whole or refused, each field checked for type and range as it is taken.

Neither msgspec nor pydantic declares these fields: a field's range and default depend on other fields and on the
model_type, one fact may stand under several keys, and unknown keys are ignored, so the checks would be functions there,
too. Errors here name file, key and value (msgspec's lack the value), and the import costs nothing, while pydantic's
takes a fifth of a second and would be one more direct dependency.
"""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitnet_jit.errors import CheckpointError
from bitnet_jit.system import reading

REQUIRED = object()  # the default of a field that must be there
LARGEST = 2**31 - 1
MAX_BYTES = 32 * 2**20  # of a JSON file; an index of a million tensors has more, and no model


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        CheckpointError: the file cannot be read, is no regular file or a huge one, is not JSON, or holds something
            other than an object.
    """
    try:
        content = reading.read_json(path, MAX_BYTES, allow_nan=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, found something else ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {reprlib.repr(content)}")
    return content


def read_json_if_there(path: Path) -> dict[str, Any] | None:
    """Return the object that a JSON file holds, None where there is no file of that name; see `read_json`."""
    return read_json(path) if is_there(path) else None


def is_there(path: Path) -> bool:
    """Return whether there is something of that name in its folder, a link to nothing among it.

    Raises:
        CheckpointError: the folder does not let us look.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return True


class Fields:
    """The fields of one JSON object; `where` (file and place in it) begins every error. A null counts as absent."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def refuse(self, name: str, expected: str) -> CheckpointError:
        """Make the error for a field that holds something else than expected."""
        actual = reprlib.repr(self.values[name]) if name in self.values else "no such field"
        return CheckpointError(f"{self.where}: {name}: expected {expected}, found {actual}")

    def take(self, name: str, default: Any, expected: str) -> Any:
        """Return the field as it is, or the default."""
        value = self.values.get(name)
        if value is None and default is REQUIRED:
            raise self.refuse(name, expected)
        return default if value is None else value

    def integer(self, name: str, default: Any = REQUIRED, low: int = 1, high: int = LARGEST) -> int:
        """Return a whole number from `low` to `high`."""
        expected = f"a whole number from {low} to {high}"
        value = self.take(name, default, expected)
        if not is_integer(value) or not low <= value <= high:
            raise self.refuse(name, expected)
        return int(value)

    def positive(self, name: str, default: Any = REQUIRED) -> float:
        """Return a number above zero."""
        value = self.take(name, default, "a positive number")
        if not is_positive(value):
            raise self.refuse(name, "a positive number")
        return float(value)

    def positives(self, name: str) -> tuple[float, ...]:
        """Return a list of numbers above zero as a tuple."""
        value = self.take(name, REQUIRED, "a list of positive numbers")
        if not isinstance(value, list) or not all(map(is_positive, value)):
            raise self.refuse(name, "a list of positive numbers")
        return tuple(map(float, value))

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        """Return true or false."""
        value = self.take(name, default, "true or false")
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return value

    def word(self, name: str, allowed: Sequence[str], default: Any = REQUIRED) -> str:
        """Return one of the allowed words."""
        expected = " or ".join(repr(word) for word in allowed)
        value = self.take(name, default, expected)
        if not isinstance(value, str) or value not in allowed:
            raise self.refuse(name, expected)
        return value

    def integers(self, name: str, high: int) -> tuple[int, ...]:
        """Return no number, one, or a list of them as a tuple, each from 0 to `high`."""
        expected = f"a whole number from 0 to {high}, or a list of such"
        value = self.take(name, (), expected)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(is_integer(number) and 0 <= number <= high for number in numbers):
            raise self.refuse(name, expected)
        return tuple(numbers)

    def words(self, name: str) -> tuple[str, ...] | None:
        """Return a list of strings as a tuple, or None where there is none."""
        value = self.take(name, None, "a list of strings")
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.refuse(name, "a list of strings")
        return tuple(value)

    def inner(self, name: str) -> "Fields | None":
        """Return the fields of an object inside this one, or None where there is none."""
        value = self.take(name, None, "an object")
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, "an object")
        return Fields(value, f"{self.where}: {name}")


def is_positive(value: Any) -> bool:
    """Return whether a value is a number above zero, and at most 1e300 so that float() takes it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1e300


def is_integer(value: Any) -> bool:
    """Return whether a value is a whole number, which a bool is not meant to be."""
    return isinstance(value, int) and not isinstance(value, bool)
