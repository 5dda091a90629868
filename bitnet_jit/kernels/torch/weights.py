"""Weights to codes and back, and codes of activations to floats, in plain torch."""

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.torch.norm import always, no_configs
from bitnet_jit.kernels.unpacking import unpacked_chunks
from bitnet_jit.problem import Problem
from bitnet_jit.quant import dequantize_weight, quantize_weight


def bind_quantize_weight(problem: Problem, config: Config):
    layout = registry.get_layout(problem.layout)

    def run(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        w_q, w_scale = quantize_weight(weight)
        return layout.from_canonical(layout.format.pack_unchecked(w_q), *weight.shape), w_scale

    return run


def bind_dequantize_weight(problem: Problem, config: Config):
    def run(w_packed: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        w_q = torch.cat([codes for _, codes in unpacked_chunks(w_packed, problem)])
        return dequantize_weight(w_q, w_scale, problem.group_size).to(getattr(torch, problem.y_dtype))

    return run


def bind_dequantize_activation(problem: Problem, config: Config):
    def run(x_q: torch.Tensor, x_scale: torch.Tensor) -> torch.Tensor:
        return (x_q * x_scale[:, None]).to(getattr(torch, problem.y_dtype))

    return run


KERNELS = (
    Kernel("torch.quantize_weight", "quantize_weight", bind_quantize_weight, no_configs, always),
    Kernel("torch.dequantize_weight", "dequantize_weight", bind_dequantize_weight, no_configs, always),
    Kernel("torch.dequantize_activation", "dequantize_activation", bind_dequantize_activation, no_configs, always),
)
