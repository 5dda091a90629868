"""Metal's kernels for MLX: refused where its default device is no GPU."""

from collections.abc import Callable
from dataclasses import replace

from bitnet_jit.kernels.metal.table import kernels
from bitnet_jit.kernels.mlx import attention
from bitnet_jit.kernels.mlx.language import unsupported_reason
from bitnet_jit.problem import Problem


def on_gpus(refusal: Callable[[Problem], str | None]) -> Callable[[Problem], str | None]:
    """Return a refusal of what another one refuses, and of everything where there is no GPU."""
    return lambda problem: unsupported_reason() or refusal(problem)


KERNELS = tuple(
    replace(kernel, unsupported_reason=on_gpus(kernel.unsupported_reason))
    for kernel in (*kernels("mlx"), *attention.kernels())
)
