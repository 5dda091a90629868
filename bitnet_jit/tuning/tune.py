"""Tuning one problem: all that can run it, timed against one another on made-up tensors."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from bitnet_jit.devices import graphs
from bitnet_jit.devices.clock import in_turns
from bitnet_jit.ops.calls import Call, on
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import Tuned, config_fields
from bitnet_jit.tuning.contenders import Contender, contenders, who_agree
from bitnet_jit.tuning.search import EFFORTS, Measure, search
from bitnet_jit.tuning.synthetic import argument_sets

Sets = Sequence[tuple[Any, ...]]


def tune(
    problem: Problem,
    effort: str = "quick",
    device: torch.device | None = None,
    among: Sequence[Contender] | None = None,
) -> Tuned | None:
    """The fastest kernel and config for a problem, or None where the device was too busy to tell. Stores nothing.

    Args:
        problem: what to tune.
        effort: of `EFFORTS`.
        device: where; None: the first one of the problem's type.
        among: those that compete, the usual one first; None: all.
    """
    device = torch.device(problem.device_type) if device is None else device
    with on(device), torch.no_grad():
        sets = argument_sets(problem, device)
        competing = contenders(problem, EFFORTS[effort].wide) if among is None else among
        able = who_agree(problem, competing, sets[0])
        if not able:
            return None
        calls = [contender.call for contender in able if contender.call is not None]
        found = search(len(calls), measure_with(calls, sets), EFFORTS[effort])
    if found is None:
        return None
    best = able[found.best]
    return Tuned(
        best.kernel.name,
        best.kernel.version,
        config_fields(best.config),
        found.microseconds,
        found.usual_microseconds,
        effort=effort,
        runner_up=None if found.runner_up is None else str(able[found.runner_up]),
        runner_up_microseconds=found.runner_up_microseconds,
    )


def measure_with(calls: Sequence[Call], sets: Sets) -> Measure:
    """What the search asks for: times of calls that take the sets of arguments in turn."""
    on_gpu = any(isinstance(argument, torch.Tensor) and argument.is_cuda for argument in sets[0])
    return measure_on_gpu(calls, sets) if on_gpu else measure_on_cpu(calls, sets)


def measure_on_cpu(calls: Sequence[Call], sets: Sets) -> Measure:
    """By the clock."""
    turn = 0

    def once(call: Call) -> None:
        nonlocal turn
        turn = (turn + 1) % len(sets)
        call(*sets[turn])

    def measure(numbers: Sequence[int], seconds: float) -> list[list[float]]:
        return in_turns([partial(once, calls[number]) for number in numbers], seconds)

    return measure


def measure_on_gpu(calls: Sequence[Call], sets: Sets) -> Measure:
    """By graphs, each captured when it is first asked for."""
    captured: dict[int, graphs.Captured] = {}
    pool = torch.cuda.graph_pool_handle()

    def run(call: Call) -> Callable[[int], object]:
        return lambda number: call(*sets[number])

    def measure(numbers: Sequence[int], seconds: float) -> list[list[float]]:
        for number in numbers:
            if number not in captured:
                captured[number] = graphs.capture(run(calls[number]), len(sets), pool)
        return graphs.in_turns([captured[number] for number in numbers], seconds)

    return measure
