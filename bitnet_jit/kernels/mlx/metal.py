"""Metal's kernels for MLX: refused where its default device is no GPU, and where they write into their arguments."""

from collections.abc import Callable
from dataclasses import replace

from bitnet_jit.kernels.metal.table import kernels, writing_kernels
from bitnet_jit.kernels.mlx.language import unsupported_reason
from bitnet_jit.problem import Problem


def on_gpus(refusal: Callable[[Problem], str | None]) -> Callable[[Problem], str | None]:
    """Return a refusal of what another one refuses, and of everything where there is no GPU."""
    return lambda problem: unsupported_reason() or refusal(problem)


def arrays_stay(problem: Problem) -> str | None:
    """Return why MLX cannot run a kernel that writes into its arguments."""
    return "writes into tensors of the call, and MLX's arrays do not change"


KERNELS = (
    *(replace(kernel, unsupported_reason=on_gpus(kernel.unsupported_reason)) for kernel in kernels("mlx")),
    *(replace(kernel, unsupported_reason=arrays_stay) for kernel in writing_kernels("mlx")),
)
