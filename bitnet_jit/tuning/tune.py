"""Tuning one problem: all that can run it, timed against one another on made-up tensors."""

from collections.abc import Sequence

import torch

from bitnet_jit.devices.kinds import kind_named
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import config_fields
from bitnet_jit.runtime.entries import Tuned
from bitnet_jit.tuning.contenders import Contender, agreeing, contenders
from bitnet_jit.tuning.search import EFFORTS, search
from bitnet_jit.tuning.synthetic import argument_sets


def tune(
    problem: Problem,
    effort: str = "quick",
    device: torch.device | None = None,
    among: Sequence[Contender] | None = None,
) -> Tuned | None:
    """Return the fastest kernel and config for a problem, or None where the device was too busy. Stores nothing.

    Args:
        problem: what to tune.
        effort: of `EFFORTS`.
        device: where its tensors lie; None: the first one of the problem's type.
        among: contenders, the default first; None: all.
    """
    kind = kind_named(problem.device_type)
    device = torch.device(kind.tensor_type) if device is None else device
    with kind.current(device), torch.no_grad():
        sets = argument_sets(problem, device)
        competing = contenders(problem, EFFORTS[effort].wide) if among is None else among
        able = agreeing(problem, competing, sets[0], device)
        if not able:
            return None
        calls = [contender.call for contender in able if contender.call is not None]
        times = search(len(calls), kind.measure(calls, sets), EFFORTS[effort])
    if times is None:
        return None
    best = able[times.best]
    return Tuned(
        best.kernel.name,
        best.kernel.version,
        config_fields(best.config),
        times.microseconds,
        times.default_microseconds,
        effort=effort,
        runner_up=None if times.runner_up is None else str(able[times.runner_up]),
        runner_up_microseconds=times.runner_up_microseconds,
    )
