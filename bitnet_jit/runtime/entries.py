"""An entry of the tuned choices, as a file has it: its key, and the choice; checked field by field.

Files come from other machines and other hands: a problem's op is a part of a file's name, its numbers too.
"""

import json
import math
import re
import reprlib
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any

from bitnet_jit.problem import Problem

FORMAT = 3  # of the files
OF_THE_DEVICE = ("device", "gpu")  # fields of a problem that its fingerprint tells in one
PROBLEM_FIELDS = {field.name for field in fields(Problem)} - set(OF_THE_DEVICE)
EXAMPLE = Problem("", "", 1, 1, 1)  # its fields are of the types that fields have
# keys hold these where they are not at their default: older keys have none of them
LATER_FIELDS = {"heads", "kv_heads", "head_dim", "cache_dtype", "w_dtype", "block"}
MAX_EXPORT = 64 * 2**20  # bytes of a file with all of a cache's choices
MAX_SIZE = 2**63 - 1  # of a problem's numbers
NAME = re.compile(r"[a-z0-9_]{1,60}")  # of an op: it is a part of its file's name
TIMES = ("microseconds", "default_microseconds")
KINDS = {  # what each field of a choice may be in JSON
    "kernel": (str,),
    "version": (int,),
    "config": (dict,),
    "origin": (str,),
    "effort": (str,),
    **dict.fromkeys(TIMES, (int, float)),
    "runner_up": (str, NoneType),
    "runner_up_microseconds": (int, float, NoneType),
}


Key = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """The choice for a problem.

    Attributes:
        kernel: the name of the kernel.
        version: the kernel's version when it was timed.
        config: the fields of its config; empty where it has none.
        microseconds: what a call took, the median.
        default_microseconds: what it took with the kernel and config that run untuned.
        origin: "measured" on this machine, "imported", or "shipped" with the package.
        effort: how long was looked, of `search.EFFORTS`.
        runner_up: the next best kernel and config in words, the default among them; None: there was no other.
        runner_up_microseconds: what that one took.
    """

    kernel: str
    version: int
    config: dict[str, Any]
    microseconds: float
    default_microseconds: float
    origin: str = "measured"
    effort: str = "quick"
    runner_up: str | None = None
    runner_up_microseconds: float | None = None


def parse(entry: Any, key: Key) -> Tuned:
    """Return the choice that a file's value tells.

    Raises:
        ValueError: it is damaged, not ours, or of another key; the message says which.
    """
    its_key, tuned = parse_entry(entry)
    if its_key != key:
        raise ValueError("it is of another problem, device or version")
    return tuned


def parse_entries(content: Any) -> list[tuple[Key, Tuned]]:
    """Return the entries of an export's value. Raises ValueError unless every one is whole."""
    if not isinstance(content, dict) or content.get("format") != FORMAT or type(content.get("entries")) is not list:
        raise ValueError(f"it is not an export of format {FORMAT}")
    return [parse_entry(entry) for entry in content["entries"]]


def parse_entry(entry: Any) -> tuple[Key, Tuned]:
    """Return an entry's key, whatever that is, and its choice.

    Raises:
        ValueError: it is damaged or not ours; the message says which.
    """
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    key, choice = entry.get("key"), entry.get("choice")
    if not isinstance(key, dict) or set(key) != {"problem", "device", "versions"}:
        raise ValueError("its key has not the fields that it should have")
    check_key(key)
    if not isinstance(choice, dict) or set(choice) != set(KINDS):
        raise ValueError("its choice has not the fields that it should have")
    if wrong := [name for name, kinds in KINDS.items() if type(choice[name]) not in kinds]:
        raise ValueError(f"{wrong[0]} is {choice[wrong[0]]!r}")
    if wrong := [name for name in TIMES if not 0 < choice[name] < math.inf]:
        raise ValueError(f"{wrong[0]} is {choice[wrong[0]]!r}")
    if choice["runner_up_microseconds"] is not None and not 0 < choice["runner_up_microseconds"] < math.inf:
        raise ValueError(f"runner_up_microseconds is {choice['runner_up_microseconds']!r}")
    return key, Tuned(**choice)


def check_key(key: Key) -> None:
    """Raise ValueError unless a key's parts are of the types that they should have, and its numbers in range."""
    problem, told = key["problem"], key["versions"]
    if not isinstance(problem, dict) or set(problem) | LATER_FIELDS != PROBLEM_FIELDS:
        raise ValueError("its problem has not the fields that it should have")
    if not isinstance(key["device"], str):
        raise ValueError(f"device is {key['device']!r}")
    if not isinstance(told, dict) or not all(isinstance(version, str) for version in told.values()):
        raise ValueError(f"versions is {told!r}")
    for name, value in problem.items():
        kind = type(getattr(EXAMPLE, name))
        if type(value) is not kind or (kind is int and not 0 <= value <= MAX_SIZE):
            raise ValueError(f"{name} is {reprlib.repr(value)}")
    if not NAME.fullmatch(problem["op"]):
        raise ValueError(f"op is {reprlib.repr(problem['op'])}")


def asked_of(problem: Problem) -> dict[str, Any]:
    """Return a problem without its device, as JSON has it."""
    told = {field.name: getattr(problem, field.name) for field in fields(problem) if field.name in PROBLEM_FIELDS}
    return {name: v for name, v in told.items() if name not in LATER_FIELDS or v != getattr(EXAMPLE, name)}


def canonical(value: Any) -> str:
    """Return a value as JSON, in one way of writing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
