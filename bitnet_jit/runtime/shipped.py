"""Choices that come with the package, for devices on which its makers have tuned; they run until the user tunes.

A table is an export of tuned choices (see transfer.py), one per kind of GPU and one per class of CPUs. It holds for
every driver and version of compilers; a choice whose kernel has changed since is passed over like any other.
"""

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

from bitnet_jit.devices.kinds import kind_named
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.entries import MAX_EXPORT, Tuned, asked_of, canonical, parse_entries
from bitnet_jit.system.reading import read_json

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[1] / "assets" / "tuned"


def find_shipped(problem: Problem) -> Tuned | None:
    """Return the choice of the package's makers for a problem on a device of this kind, or None."""
    return table(table_name(problem)).get(canonical(asked_of(problem)))


def table_name(problem: Problem) -> str:
    """Return the name of the table for a problem's device: "nvidia-h200", "cpu-avx2"."""
    kind = kind_named(problem.device_type)
    return kind.table(problem.gpu) if kind.table else kind.type


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
