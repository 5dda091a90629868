"""Who competes for a problem: kernels that fit with their configs, if they run and answer as others do."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.ops.calls import Call, as_call
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.synthetic import first_shape

logger = logging.getLogger(__name__)

EXACT = ("quantize_activation", "ternary_matmul")
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
    """Every kernel that fits with its likely configs, or with all, none bound yet, the usual one first.

    Kernels in plain torch operations, which unpack the weight in each call, compete where there are no others, and on a
    CPU among all: graphs cannot hold them.
    """
    fitting, _ = registry.candidates(problem)
    own = [kernel for kernel in fitting if kernel.backend != "torch"]
    competing = fitting if not own or wide and problem.device_type == "cpu" else own
    return [
        Contender(kernel, config)
        for kernel in competing
        for config in (kernel.all_configs(problem) if wide else dict.fromkeys(kernel.configs(problem)))
    ]


def bind(problem: Problem, contender: Contender, device: torch.device) -> Contender:
    """The same, compiled and ready to be called."""
    kernel, shape = contender.kernel, first_shape(problem)
    return replace(contender, call=as_call(kernel, kernel.bind(problem, contender.config), problem, shape, device))


def who_agree(problem: Problem, found: Sequence[Contender], arguments: tuple[Any, ...]) -> list[Contender]:
    """Those that run and answer as the first one does, bound; the log tells of the others."""
    device = arguments[0].device
    right: tuple[torch.Tensor, ...] | None = None
    able = []
    for contender in found:
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
