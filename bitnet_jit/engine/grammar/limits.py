"""Schemas for which llguidance would work without end: it limits the size of grammars, not all of its way to them.

An intersection of n patterns takes it 2^n steps, and one that holds multiples of n as many states as n has values.
"""

from collections.abc import Iterator
from typing import Any

from bitnet_jit.errors import InvalidInput

MAX_INTERSECTED = 10  # patterns, formats and multiples in a schema that intersects any
MAX_MULTIPLE = 1000  # in units of its last digit
ANNOTATIONS = {"$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples", "deprecated"}
COMBINING = ("allOf", "anyOf", "oneOf", "$ref")


def check_work(schema: dict[str, Any]) -> None:
    """Raise InvalidInput where a schema is too much work, whatever its size.

    >>> check_work({"allOf": [{"pattern": "a"}, {"pattern": "b"}] * 6})
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: schema: expected at most 10 patterns and multiples in an intersection, got 12
    """
    parts = [*objects_in(schema)]
    multiples = [part["multipleOf"] for part in parts if is_number(part.get("multipleOf"))]
    wrong = next((value for value in multiples if not 0 < last_units(value) <= MAX_MULTIPLE), None)
    if wrong is not None:
        raise InvalidInput(f"schema: expected multipleOf with at most three digits, above 0, got {wrong!r}"[:200])
    if not any(map(intersects, parts)):
        return
    number = len(multiples) + sum(map(num_patterns, parts))
    if number > MAX_INTERSECTED:
        raise InvalidInput(
            f"schema: expected at most {MAX_INTERSECTED} patterns and multiples in an intersection, got {number}"
        )


def objects_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all objects of a JSON value, which may lie deep."""
    pending: list[Any] = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def intersects(part: dict[str, Any]) -> bool:
    """Return whether a part of a schema holds for others together."""
    words = [word for word in COMBINING if word in part]
    items = part.get("allOf")
    return bool(words) and (len(part.keys() - ANNOTATIONS) > 1 or (isinstance(items, list) and len(items) > 1))


def num_patterns(part: dict[str, Any]) -> int:
    """Return the number of patterns and formats of one part."""
    names = part.get("patternProperties")
    plain = sum(isinstance(part.get(word), str) for word in ("pattern", "format"))
    return plain + (len(names) if isinstance(names, dict) else 0)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def last_units(value: float) -> int:
    """Return a number in units of its last digit.

    >>> last_units(0.25), last_units(1000), last_units(1e-7)
    (25, 1000, 1)
    """
    if isinstance(value, int):
        return value
    digits, _, power = repr(value).lower().partition("e")
    whole = int(digits.replace(".", "")) if "." in digits and not digits.endswith(".0") else int(float(digits))
    return whole * 10 ** min(int(power or 0), 9) if int(power or 0) > 0 else whole
