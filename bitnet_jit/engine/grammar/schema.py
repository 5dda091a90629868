"""What a JSON schema must be before a grammar is made of it: of limited size, and with a text that ends."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from bitnet_jit.engine.grammar.limits import check_work
from bitnet_jit.errors import InvalidInput

MAX_SCHEMA = 2**17  # characters
Groups = list[list[Any]]  # schemas of which each group needs one whose texts end

HOW = {  # of the grammar; last in line, so that a schema's own "x-guidance" changes none of it
    "whitespace_flexible": True,
    "whitespace_pattern": " ",  # one, where JSON lets some stand: models that know no JSON would write them on and on
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
    "json_allow_general_unicode_escapes": False,
}


def schema_text(schema: Any) -> str:
    """Return a schema as JSON.

    Raises:
        InvalidInput: it is no object, no JSON, too large, refers outside of itself, or has no text that ends.

    >>> schema_text({"type": "object", "properties": {"child": {"$ref": "#"}}, "required": ["child"]})
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: schema: expected one with a text that ends: each part that it requires holds another
    """
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"schema: expected a JSON object, got {type(schema).__name__}")
    try:
        text = json.dumps(schema, allow_nan=False)
    except RecursionError:
        raise InvalidInput("schema: expected less depth") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"schema: expected what JSON can hold ({error})") from None
    if len(text) > MAX_SCHEMA:
        raise InvalidInput(f"schema: expected at most {MAX_SCHEMA} characters, got {len(text)}")
    schema = json.loads(text)
    check_work(schema)
    if not has_end(schema):
        raise InvalidInput("schema: expected one with a text that ends: each part that it requires holds another")
    return text


def has_end(root: dict[str, Any]) -> bool:
    """Return whether some text of a schema ends, as far as its references, objects and arrays tell."""
    pending, parents, open_groups = [root], defaultdict(list), {id(root): -1}
    ended: list[int] = []
    while pending:  # all schemas that one can come to; the work is proportional to their number
        schema = pending.pop()
        groups = groups_of(schema, root)
        open_groups[id(schema)] = len(groups)
        if not groups:
            ended.append(id(schema))
        for number, group in enumerate(groups):
            for child in group:
                parents[id(child)].append((id(schema), number))
                if id(child) not in open_groups:
                    open_groups[id(child)] = -1
                    pending.append(child)
    done: set[tuple[int, int]] = set()
    while ended:
        for parent in parents[ended.pop()]:
            if parent not in done:
                done.add(parent)
                open_groups[parent[0]] -= 1
                if not open_groups[parent[0]]:
                    ended.append(parent[0])
    return open_groups[id(root)] == 0


def groups_of(schema: Any, root: dict[str, Any]) -> Groups:
    """Return what must end for a schema's text to end: of each group one."""
    if not isinstance(schema, dict):
        return []
    if schema is not root and isinstance(schema.get("$id"), str):
        raise InvalidInput("schema: expected no $id within it")
    groups = [[resolved(schema["$ref"], root)]] if "$ref" in schema else []
    groups += [items for word in ("anyOf", "oneOf") if isinstance(items := schema.get(word), list)]
    parts = schema.get("allOf")
    groups += [[item] for item in parts] if isinstance(parts, list) else []
    kind = schema.get("type")
    if kind in ("object", ["object"]):
        groups += object_groups(schema)
    if kind in ("array", ["array"]):
        groups += [[item] for item in required_items(schema)]
    return groups


def object_groups(schema: dict[str, Any]) -> Groups:
    """Return what must end of an object: each property that is required, and one where one is, whichever it be."""
    given = schema.get("properties")
    properties: dict[str, Any] = given if isinstance(given, dict) else {}
    required = schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    rest = schema.get("additionalProperties", True)
    groups = [[properties.get(name, rest)] for name in names]
    least = schema.get("minProperties")
    if isinstance(least, int) and least > len(names):
        patterns = schema.get("patternProperties")
        more = patterns.values() if isinstance(patterns, dict) else ()
        groups.append([*properties.values(), *more, rest])
    return groups


def required_items(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the items that an array must have; one for all that are alike."""
    least = schema.get("minItems")
    if not isinstance(least, int) or least < 1:
        return
    first = schema.get("prefixItems")
    first = first if isinstance(first, list) else []
    yield from first[:least]
    if least > len(first):
        yield schema.get("items", True)


def resolved(reference: Any, root: dict[str, Any]) -> Any:
    """Return the part of a schema that a reference names; InvalidInput where it lies elsewhere."""
    words = f"schema: expected a $ref to a place within it, such as #/$defs/name, got {str(reference)[:80]!r}"
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise InvalidInput(words)
    place: Any = root
    for step in reference.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and name.isascii() and name.isdigit() and len(name) < 9:
            place = place[int(name)] if int(name) < len(place) else None
        else:
            place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict | bool):
        raise InvalidInput(words)
    return place
