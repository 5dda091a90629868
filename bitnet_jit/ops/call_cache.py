"""The calls that ops keep: made once per kind of arguments, then found by all that their kernels rely on."""

from typing import Any

from bitnet_jit.kernels.backend import Call

MAX_CALLS = 4096  # kept per op: shapes may vary without end
Calls = dict[tuple[Any, ...], Call]
KEPT: list[Calls] = []  # of all ops
FORGOTTEN = [0]  # how often calls have been forgotten


def new_calls() -> Calls:
    """Return where an op keeps its calls."""
    KEPT.append({})
    return KEPT[-1]


def keep(calls: Calls, key: tuple[Any, ...], call: Call) -> Call:
    """Remember a call; after very many shapes, forget the others."""
    if len(calls) >= MAX_CALLS:
        calls.clear()
    calls[key] = call
    return call


def forget_calls() -> None:
    """Make each call anew when it comes next."""
    FORGOTTEN[0] += 1
    for calls in KEPT:
        calls.clear()


def revision() -> int:
    """Return a number that changes when calls are made anew, which may then run other kernels."""
    return FORGOTTEN[0]
