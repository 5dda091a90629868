"""Tuning one problem: every kernel and config that fits, bound to made-up tensors and timed against the usual one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.ops.calls import BINDERS, Call
from bitnet_jit.ops.made_up import argument_sets, first_features
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import Tuned, config_fields
from bitnet_jit.runtime.search import EFFORTS, USUAL, search
from bitnet_jit.runtime.timing import in_turns

logger = logging.getLogger(__name__)

EXACT = ("quantize_activation", "ternary_matmul")
NEAR = 0.01  # relative, in the Frobenius norm


@dataclass(frozen=True)
class Contender:
    """A kernel with a config, and how it is called."""

    kernel: Kernel
    config: Config
    call: Call


def tune(problem: Problem, effort: str = "quick") -> Tuned | None:
    """The fastest kernel and config for a problem on the CPU, or None where the machine was too busy to tell.

    Stores nothing. Kernels in plain torch operations do not take part where there are others.
    """
    device = torch.device("cpu")
    sets = argument_sets(problem, device)
    able = who_agree(problem, bind_all(problem, device), sets[0])
    found = search(len(able), measure_with([contender.call for contender in able], sets), EFFORTS[effort])
    if found is None:
        return None
    best = able[found.best]
    return Tuned(
        best.kernel.name,
        best.kernel.version,
        config_fields(best.config),
        found.microseconds,
        found.usual_microseconds,
    )


def bind_all(problem: Problem, device: torch.device) -> list[Contender]:
    """Every kernel that fits with each of its configs, the usual one first."""
    fitting, _ = registry.candidates(problem)
    own = [kernel for kernel in fitting if not kernel.name.startswith("torch.")] or fitting
    shape = torch.Size((problem.rows, first_features(problem)))
    contenders = []
    for kernel in own:
        bind = BINDERS[kernel.name.partition(".")[0]]
        for config in dict.fromkeys(kernel.configs(problem)):
            contenders.append(Contender(kernel, config, bind(kernel.bind(problem, config), problem, shape, device)))
    return contenders


def who_agree(problem: Problem, contenders: Sequence[Contender], arguments: tuple[Any, ...]) -> list[Contender]:
    """Those that answer as the usual one does; the log tells of the others."""
    right = in_order(contenders[USUAL].call(*arguments))
    able = []
    for contender in contenders:
        if agree(problem, in_order(contender.call(*arguments)), right):
            able.append(contender)
        else:
            name = f"{contender.kernel.name} with {contender.config}"
            logger.error("%s answers %s otherwise than others do; please report it", name, problem)
    return able


def measure_with(calls: Sequence[Call], sets: Sequence[tuple[Any, ...]]) -> Callable[..., list[list[float]]]:
    """What the search asks for: times of calls that take the sets of arguments in turn."""
    turn = 0

    def once(call: Call) -> None:
        nonlocal turn
        turn = (turn + 1) % len(sets)
        call(*sets[turn])

    def measure(numbers: Sequence[int], seconds: float) -> list[list[float]]:
        return in_turns([partial(once, calls[number]) for number in numbers], seconds)

    return measure


def in_order(result: Any) -> tuple[torch.Tensor, ...]:
    """An op's outputs."""
    return result if isinstance(result, tuple) else (result,)


def agree(problem: Problem, found: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    """Whether two kernels gave the same: integers and what is made of them bit for bit, sums of floats nearly."""
    exact = problem.activation == "a8" and problem.scale != "group" or problem.op in EXACT
    if exact:
        return all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    return all(near(a.float(), b.float()) for a, b in zip(found, right, strict=True))


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= NEAR * b.norm())
