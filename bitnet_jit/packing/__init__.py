"""Packings of ternary weights: bits move, no number changes. A new packing is a file and a name in FORMATS."""

from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing.format import Format
from bitnet_jit.packing.i2 import I2
from bitnet_jit.packing.layout import Layout, canonical
from bitnet_jit.packing.t5 import T5

FORMATS: dict[str, Format] = {format.name: format for format in (I2, T5)}
CANONICAL: dict[str, Layout] = {name: canonical(format) for name, format in FORMATS.items()}


def get_format(name: str) -> Format:
    """Return the format of that name, or raise InvalidInput that lists the known names."""
    if name not in FORMATS:
        raise InvalidInput(f"packing: expected one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


__all__ = ["CANONICAL", "FORMATS", "Format", "Layout", "canonical", "get_format"]
