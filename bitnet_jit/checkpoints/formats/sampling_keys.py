"""How a model's files would have tokens chosen: generation_config.json, and the metadata of GGUF files; both ways.

transformers draws where `do_sample` is true. Files that give a temperature or a limit and say nothing of it mean it,
too. A limit that excludes nothing is none: top_k 0 or -1, top_p 1, min_p 0.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jit.checkpoints.formats.fields import LARGEST, Fields, is_integer, read_json_if_there
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.defaults import LIMITS, Defaults
from bitnet_jit.generation.sampling import Sampling

PREFIX = "general.sampling"
OF_GGUF = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
OF_GGUF |= {"penalty_repeat": "repetition_penalty"}


def read_defaults(file: Path) -> Defaults:
    """Return what a generation_config.json says of sampling; nothing where there is no such file.

    Raises:
        CheckpointError: it cannot be read, or a value is out of range.
    """
    if (values := read_json_if_there(file)) is None:
        return Defaults()
    fields = Fields(values, str(file))
    draws = fields.flag("do_sample", any(values.get(name) is not None for name in ("temperature", *LIMITS)))
    penalty = number(fields, "repetition_penalty", 1.0)
    if not draws:
        greedy = 0.0 if values.get("do_sample") is False else None
        return Defaults(file.name, temperature=greedy, repetition_penalty=without("repetition_penalty", penalty))
    given = {name: without(name, number(fields, name, None)) for name in LIMITS}
    return Defaults(
        file.name,
        temperature=number(fields, "temperature", 1.0),
        repetition_penalty=without("repetition_penalty", penalty),
        **given,
    )


def number(fields: Fields, name: str, default: float | None) -> Any:
    """Return an option of sampling. Raise CheckpointError where `Sampling` would refuse it."""
    value = fields.take(name, default, "a number")
    if value is not None and not is_valid(name, value):
        raise fields.refuse(name, "a whole number" if name == "top_k" else "a number in the range of this option")
    return value


def defaults_of_keys(metadata: Mapping[str, Any]) -> Defaults:
    """Return what a GGUF file says of sampling; a key of another type, or out of range, says nothing."""
    given = {name: shortest(metadata.get(f"{PREFIX}.{key}")) for key, name in OF_GGUF.items()}
    known = {name: without(name, value) for name, value in given.items() if is_valid(name, value)}
    return Defaults(PREFIX, **known) if known else Defaults()


def keys_of_defaults(defaults: Defaults) -> dict[str, Any]:
    """Return the keys of a GGUF file that say the same.

    >>> keys_of_defaults(Defaults("generation_config.json", temperature=0.6, top_k=20))
    {'general.sampling.temp': 0.6, 'general.sampling.top_k': 20}
    """
    given = {key: getattr(defaults, name) for key, name in OF_GGUF.items()}
    return {f"{PREFIX}.{key}": value for key, value in given.items() if value is not None}


def settings_of_defaults(defaults: Defaults) -> dict[str, Any]:
    """Return what a generation_config.json says to say the same; nothing where no file said anything.

    >>> settings_of_defaults(Defaults("general.sampling", temperature=0.6, top_k=20))
    {'do_sample': True, 'temperature': 0.6, 'top_k': 20}
    """
    names = ("temperature", *LIMITS) if defaults.temperature else ()
    given = {name: getattr(defaults, name) for name in (*names, "repetition_penalty")}
    settings = {name: value for name, value in given.items() if value is not None}
    return settings if defaults.temperature is None else {"do_sample": bool(defaults.temperature), **settings}


def shortest(value: Any) -> Any:
    """Return a number of float32 with as few digits as tell it from others; anything else as it is.

    >>> shortest(0.6000000238418579)
    0.6
    """
    is_single = (
        isinstance(value, float) and math.isfinite(value) and abs(value) < 1e30 and float(np.float32(value)) == value
    )
    return float(str(np.float32(value))) if is_single else value


def without(name: str, value: Any) -> Any:
    """Return an option, None where it changes nothing."""
    if name == "top_k":
        return None if value in (None, 0, -1) else int(value)
    nothing = {"top_p": 1, "min_p": 0, "repetition_penalty": 1}
    return None if value is None or value == nothing.get(name) else float(value)


def is_valid(name: str, value: Any) -> bool:
    """Return whether a value is of the type and in the range of an option of `Sampling`, or means none."""
    if name == "top_k":
        return is_integer(value) and -1 <= value <= LARGEST
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    try:
        Sampling(**{name: value})  # type: ignore[arg-type]
    except InvalidInput:
        return False
    return True
