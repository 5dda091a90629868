"""The record of a plain kernel, which has no config and refuses next to nothing."""

from collections.abc import Callable
from typing import Any

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import Problem


def nothing_refused(problem: Problem) -> str | None:
    """Return None: the kernel runs every problem of its op."""
    return None


def no_configs(problem: Problem) -> tuple[Config, ...]:
    """Return the one config of a kernel that has none."""
    return (None,)


def plain_kernel(
    op: str,
    bind: Callable[[Problem, Config], Callable[..., Any]],
    name: str = "",
    unsupported_reason: Callable[[Problem], str | None] = nothing_refused,
) -> Kernel:
    """Return the record of a plain kernel of an op; `name` tells it from another one of that op."""
    return Kernel(f"mlx.plain_{name or op}", op, bind, no_configs, unsupported_reason)
