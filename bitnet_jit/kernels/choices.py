"""What kernels without a choice have in common: one config, and no problem that is refused."""

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.problem import Problem


def one_config(problem: Problem) -> tuple[Config, ...]:
    """Return None alone: there is nothing to choose."""
    return (None,)


def takes_all(problem: Problem) -> str | None:
    """Return None: no problem is refused."""
    return None
