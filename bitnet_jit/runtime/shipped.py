"""Choices that come with the package, for devices on which its makers have tuned: what runs until the user tunes.

A table is an export of what tuning found (see transfer.py), one a kind of GPU and one a class of CPUs. It holds for
every driver and version of compilers; a choice whose kernel has changed since is passed over like any other.
"""

import logging
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from bitnet_jit.devices.cpu import cpu_features
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import asked_of, canonical
from bitnet_jit.runtime.entries import MAX_EXPORT, Tuned, parse_entries
from bitnet_jit.system.reading import read_json

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[1] / "assets" / "tuned"
CPU_CLASSES = ("amx_int8", "avx512_vnni", "avx2")  # by the first of these features that a CPU has, else "generic"


def find_shipped(problem: Problem) -> Tuned | None:
    """What the package's makers found for a problem on a device of this kind, or None."""
    return table(table_name(problem)).get(canonical(asked_of(problem)))


def table_name(problem: Problem) -> str:
    """The name of the table for a problem's device: "nvidia-h200", "cpu-avx2"."""
    if problem.gpu is not None:
        return re.sub(r"[^a-z0-9]+", "-", problem.gpu.name.lower())
    if problem.device_type == "cpu":
        return f"cpu-{next((name for name in CPU_CLASSES if name in cpu_features()), 'generic')}"
    return problem.device_type


@cache
def table(name: str) -> dict[str, Tuned]:
    """Return the choices of a table by their problems as JSON has them; none where there is no such table."""
    file = FOLDER / f"{name}.json"
    try:
        entries = parse_entries(read_json(file, MAX_EXPORT))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s is passed over: %s", file, error)
        return {}
    return {canonical(key["problem"]): replace(tuned, origin="shipped") for key, tuned in entries}
