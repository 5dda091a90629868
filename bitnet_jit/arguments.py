"""Numbers that callers pass: Python's, NumPy's, and tensors and arrays without dimensions; a bool is no number."""

import math
from numbers import Integral, Real

from bitnet_jit.errors import InvalidInput

MAX_SHOWN = 80  # characters of a value in an error


def as_whole(value: object) -> int | None:
    """Return a whole number as an int, or None for any other value.

    Args:
        value: anything; NumPy integers count, and integer tensors and arrays of no dimension.

    >>> import numpy as np
    >>> [as_whole(value) for value in (3, np.int64(3), np.array(3), 3.0, True, "3")]
    [3, 3, 3, None, None, None]
    """
    if type(value) is int:
        return value
    value = scalar(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def as_real(value: object) -> float | None:
    """Return a real number as a float, infinite where it is too large for one; None for any other value.

    >>> import numpy as np
    >>> [as_real(value) for value in (1, np.float32(0.5), 10**400, True, "1")]
    [1.0, 0.5, inf, None, None]
    """
    value = scalar(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if bool(value > 0) else -math.inf  # type: ignore[operator]


def scalar(value: object) -> object:
    """Return the value of a tensor or array without dimensions as a Python number; all other values as they are."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        number: object = value.item()
    except RuntimeError:  # a tensor on "meta" holds no value
        return value
    return number


def whole_number(name: str, value: object, least: int = 1, most: int | None = None, none: bool = False) -> int:
    """Return the argument as an int.

    Args:
        name: the argument's name, for the error.
        value: the argument.
        least: the smallest number that makes sense.
        most: the largest one, or None.
        none: whether the error says that None may be passed, too; the caller has handled None already.

    Raises:
        InvalidInput: it is no whole number, or is out of range.

    >>> whole_number("rows", 2**80, most=2**31)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: rows: expected at most 2147483648, got 1208925819614629174706176
    """
    number = as_whole(value)
    if number is None or number < least:
        expected = f"a whole number of at least {least}{' or None' if none else ''}"
        raise InvalidInput(f"{name}: expected {expected}, got {show(value)}")
    if most is not None and number > most:
        raise InvalidInput(f"{name}: expected at most {most}, got {show(value)}")
    return number


def show(value: object) -> str:
    """Return the repr of a value for an error, shortened where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of over 4300 digits
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 23]}...{text[-20:]}"
