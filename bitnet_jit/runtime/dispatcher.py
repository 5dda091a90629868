"""Choose the kernel and the config that run a problem: once per problem, then it is a dictionary hit.

The choice is what tuning measured for the problem, the user's or else what came with the package; else the first kernel
of the registry that fits, with its first config. Where the user wants problems tuned as they come
(BITNET_JIT_AUTOTUNE=1), a hook is asked before; the package installs it, since tuning is a layer above.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bitnet_jit.errors import UnsupportedProblem
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import TuningCache, recall
from bitnet_jit.runtime.entries import Tuned
from bitnet_jit.runtime.hooks import HOOKS
from bitnet_jit.runtime.shipped import find_shipped
from bitnet_jit.settings import read_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A kernel and its config for a problem.

    Attributes:
        refusals: why every other kernel that was asked refused.
        tuned: what tuning measured, where the choice comes from that.
    """

    problem: Problem
    kernel: Kernel
    config: Config
    refusals: dict[str, str]
    tuned: Tuned | None = None

    @cached_property
    def bound(self) -> Any:
        """Return the kernel bound to the problem, once: every shape in the problem's bucket of rows shares it."""
        return self.kernel.bind(self.problem, self.config)


class Dispatcher:
    """Chooses a kernel and a config for each problem, once.

    Args:
        cache: of what tuning measured; None: the user's.
    """

    def __init__(self, cache: TuningCache | None = None) -> None:
        self.cache = TuningCache() if cache is None else cache
        self._choices: dict[Problem, Choice] = {}
        self._told: set[tuple[str, str]] = set()

    def choose(self, problem: Problem, device: Any = None) -> Choice:
        """Return the choice for a problem.

        Args:
            problem: what is asked.
            device: where it may be tuned, if the user wants that and has measured nothing for it; None: nowhere.

        Raises:
            UnsupportedProblem: every kernel refuses; the error lists the reasons.
        """
        choice = self._choose(problem)
        measured = choice.tuned is not None and choice.tuned.origin != "shipped"
        if measured or device is None or HOOKS.on_miss is None or not read_settings().autotune:
            return choice
        if (tuned := HOOKS.on_miss(problem, device)) is not None:
            self.cache.store(problem, tuned)
            self.forget(problem)
        return self._choose(problem)

    def _choose(self, problem: Problem) -> Choice:
        """Return the choice by what is known."""
        choice = self._choices.get(problem)
        if choice is None:
            fitting, refusals = registry.candidates(problem)
            if not fitting:
                raise UnsupportedProblem(str(problem), refusals)
            choice = self._tuned(problem, fitting, refusals) or default(problem, fitting, refusals)
            self._tell_of_fallback(choice)
            self._choices[problem] = choice
        return choice

    def problems(self) -> tuple[Problem, ...]:
        """Return all that was asked since choices were last forgotten."""
        return tuple(self._choices)

    def forget(self, problem: Problem | None = None) -> None:
        """Choose anew, and look again at what tuning measured: for a problem, or for all."""
        if problem is None:
            self._choices.clear()
        else:
            self._choices.pop(problem, None)

    def _tuned(self, problem: Problem, fitting: list[Kernel], refusals: dict[str, str]) -> Choice | None:
        """Return the tuned choice, if there is one and it still holds: the user's, else a shipped one."""
        for find in (self.cache.find, find_shipped):
            if (tuned := find(problem)) is not None:
                try:
                    kernel, config = recall(tuned, problem, fitting)
                    return Choice(problem, kernel, config, refusals, tuned)
                except ValueError as error:
                    logger.info("what was tuned for %s is passed over: %s", problem, error)
        return None

    def _tell_of_fallback(self, choice: Choice) -> None:
        """Say once per op and device that the plain torch kernel runs, and why nothing faster does."""
        problem = choice.problem
        key = (problem.op, problem.device_type)
        if registry.is_fallback(choice.kernel) and key not in self._told:
            self._told.add(key)
            reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.refusals.items())
            logger.warning("%s runs on the plain torch kernel, which is slow (%s)", problem, reasons)


def default(problem: Problem, fitting: list[Kernel], refusals: dict[str, str]) -> Choice:
    """Return the first kernel of those that fit, with its first config."""
    return Choice(problem, fitting[0], fitting[0].configs(problem)[0], refusals)
