"""Hadamard rotations in plain torch, as `reference/hadamard.py` has them."""

import torch

from bitnet_jit.devices.strided import check_memory
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.torch.norm import always, no_configs
from bitnet_jit.problem import Problem


def butterflies(x: torch.Tensor, block: int) -> torch.Tensor:
    """Multiply each run of `block` features of x (..., K) float32 by the Hadamard matrix, normalized."""
    distance, y = 1, x
    while distance < block:
        a, b = y.reshape(x.numel() // (2 * distance), 2, distance).unbind(1)
        y = torch.stack((a + b, a - b), 1)
        distance *= 2
    return y.reshape(x.shape) * block**-0.5


def rotate(x: torch.Tensor, signs: torch.Tensor | None, block: int) -> torch.Tensor:
    """Return H (signs * x) per run of `block` features of x (..., K), in x's dtype."""
    wide = x.float()
    return butterflies(wide if signs is None else wide * signs, block).to(x.dtype)


def rotate_back(x: torch.Tensor, signs: torch.Tensor | None, block: int) -> torch.Tensor:
    """Return signs * (H x) per run of `block` features of x (..., K), in x's dtype."""
    y = butterflies(x.float(), block)
    return (y if signs is None else y * signs).to(x.dtype)


def bind_hadamard(problem: Problem, config: Config):
    def run(x, signs):
        check_memory(x, signs)
        return rotate(x, signs, problem.block)

    return run


def bind_inverse_hadamard(problem: Problem, config: Config):
    def run(x, signs):
        check_memory(x, signs)
        return rotate_back(x, signs, problem.block)

    return run


KERNELS = (
    Kernel("torch.hadamard", "hadamard", bind_hadamard, no_configs, always),
    Kernel("torch.inverse_hadamard", "inverse_hadamard", bind_inverse_hadamard, no_configs, always),
)
