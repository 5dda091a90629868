"""The contenders for a problem: kernels that fit with their configs, if they run and answer as the others do."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bitnet_jit.devices.kinds import kind_named
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.ops.calls import bind_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.synthetic import operands_of

logger = logging.getLogger(__name__)

NEAR = 0.01  # relative, in the Frobenius norm


@dataclass(frozen=True)
class Contender:
    """A kernel with a config, and how it is called once it is bound."""

    kernel: Kernel
    config: Config
    call: Call | None = None

    def __str__(self) -> str:
        return f"{self.kernel.name} with {self.config}" if self.config is not None else self.kernel.name


def contenders(problem: Problem, wide: bool = False) -> list[Contender]:
    """Return every kernel that fits with its likely configs, or with all, none bound yet, the default first.

    Kernels of the fallback, which unpack the weight in each call, compete where there are no others, and among all
    where calls are timed by the clock: graphs cannot hold them.
    """
    fitting, _ = registry.candidates(problem)
    fast = [kernel for kernel in fitting if not registry.is_fallback(kernel)]
    by_clock = kind_named(problem.device_type).times_alone
    competing = fitting if not fast or wide and by_clock else fast
    return [
        Contender(kernel, config)
        for kernel in competing
        for config in (kernel.all_configs(problem) if wide else dict.fromkeys(kernel.configs(problem)))
    ]


def bind(problem: Problem, contender: Contender, device: torch.device) -> Contender:
    """Return the contender compiled and ready to be called."""
    kernel = contender.kernel
    bound = kernel.bind(problem, contender.config)
    return replace(contender, call=bind_call(kernel, bound, operands_of(problem), device))


def agreeing(
    problem: Problem, competing: Sequence[Contender], arguments: tuple[Any, ...], device: torch.device
) -> list[Contender]:
    """Return the contenders that run and answer as the first one does, bound; the log tells of the others."""
    right: tuple[torch.Tensor, ...] | None = None
    able = []
    for contender in competing:
        try:
            bound = bind(problem, contender, device)
            assert bound.call is not None
            outputs = in_order(bound.call(*arguments))
        except Exception as error:  # compilers and drivers have errors of their own, and each is one config's only
            logger.info("%s cannot run %s: %s", contender, problem, error)
            continue
        if right is None or agree(problem, outputs, right):
            right = outputs if right is None else right
            able.append(bound)
        else:
            logger.error("%s answers %s otherwise than others do; please report it", contender, problem)
    return able


def in_order(result: Any) -> tuple[torch.Tensor, ...]:
    """Return an op's outputs as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def agree(problem: Problem, outputs: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    """Return whether two kernels gave the same: bit for bit where the op is exact, else nearly."""
    same = torch.equal if OPS[problem.op].spec.exact(problem) else near
    return all(same(a, b) for a, b in zip(outputs, right, strict=True))


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether a and b differ by a small part of b's norm."""
    return bool((a.float() - b.float()).norm() <= NEAR * b.float().norm())
