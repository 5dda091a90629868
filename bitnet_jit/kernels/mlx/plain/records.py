"""The record of a plain kernel, which has no config and refuses next to nothing."""

from collections.abc import Callable
from typing import Any

from bitnet_jit.kernels.choices import one_config, takes_all
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import Problem


def plain_kernel(
    op: str,
    bind: Callable[[Problem, Config], Callable[..., Any]],
    name: str = "",
    unsupported_reason: Callable[[Problem], str | None] = takes_all,
) -> Kernel:
    """Return the record of a plain kernel of an op; `name` tells it from another one of that op."""
    return Kernel(f"mlx.plain_{name or op}", op, bind, one_config, unsupported_reason)
