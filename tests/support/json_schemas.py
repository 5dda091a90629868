"""Small JSON schemas whose texts are short, to be drawn by hypothesis."""

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "Cain", 'q"uote', "né", "x y"])
PLAIN = [{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1, "é"]}}, {"type": ["boolean", "null"]}]
VALUES = st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5)


def integers(low, more):
    """Return a schema of integers."""
    return {"type": "integer", "minimum": low, "maximum": low + more}


def strings(least, more):
    """Return a schema of strings."""
    return {"type": "string", "minLength": least, "maxLength": least + more}


def objects(inner):
    """Return schemas of objects."""
    return st.builds(
        lambda properties, some: {
            "type": "object",
            "properties": properties,
            "required": [name for name, needed in zip(properties, some, strict=False) if needed],
            "additionalProperties": False,
        },
        st.dictionaries(NAMES, inner, max_size=3),
        st.lists(st.booleans(), min_size=3, max_size=3),
    )


def arrays(inner):
    """Return schemas of arrays."""
    return st.builds(
        lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def choices(inner):
    """Return schemas of one of several."""
    return st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas})


LEAVES = st.one_of(
    st.builds(integers, st.integers(-9, 9), st.integers(0, 999)),
    st.builds(strings, st.integers(0, 3), st.integers(0, 9)),
    st.just({"type": "string", "pattern": "^[a-c]{2,5}(-[0-9]{2})?$"}),
    st.just({"type": "string", "format": "date"}),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    st.sampled_from(PLAIN),
)
SCHEMAS = st.recursive(LEAVES, lambda inner: objects(inner) | arrays(inner) | choices(inner), max_leaves=5)
