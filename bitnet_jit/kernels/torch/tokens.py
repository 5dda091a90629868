"""The two ends of a step in plain torch: rows of token ids, and the token with the largest logit of each row."""

import torch

from bitnet_jit.devices.strided import check_memory
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.torch.norm import always, no_configs
from bitnet_jit.problem import NO_TOKEN, Problem
from bitnet_jit.quant import dequantize_weight


def bind_embedding(problem: Problem, config: Config):
    dtype = getattr(torch, problem.y_dtype)

    def run(ids: torch.Tensor, table: torch.Tensor, table_scale: torch.Tensor | None) -> torch.Tensor:
        inside = (ids >= 0) & (ids < len(table))
        rows = torch.where(inside, ids, 0)
        y = table[rows] if table_scale is None else table[rows] * table_scale[rows, None]
        return torch.where(inside[:, None], y, torch.nan).to(dtype)

    return run


def bind_packed_embedding(problem: Problem, config: Config):
    layout, dtype = registry.get_layout(problem.layout), getattr(torch, problem.y_dtype)
    sizes = problem.out_features, problem.in_features

    def run(ids: torch.Tensor, w_packed: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        inside = (ids >= 0) & (ids < problem.out_features)
        rows = torch.where(inside, ids, 0)
        w_q = layout.format.unpack_unchecked(layout.to_canonical(w_packed, *sizes)[rows], problem.in_features)
        y = dequantize_weight(w_q, w_scale[rows] if w_scale.dim() else w_scale, problem.group_size)
        return torch.where(inside[:, None], y, torch.nan).to(dtype)

    return run


@torch.inference_mode()  # in which tensors may be written that were made in it
def write_next(tokens: torch.Tensor, next_tokens: torch.Tensor, next_positions: torch.Tensor | None) -> None:
    """Write the tokens of the next step, and raise positions of rows that are used."""
    next_tokens.copy_(tokens)
    if next_positions is not None:
        next_positions.add_(next_positions >= 0)


def bind_greedy(problem: Problem, config: Config):
    def run(logits: torch.Tensor, next_tokens: torch.Tensor, next_positions: torch.Tensor | None):
        check_memory(logits, next_tokens, next_positions)
        tokens = logits.argmax(-1)
        largest = logits.gather(-1, tokens[:, None])[:, 0]
        write_next(tokens, next_tokens, next_positions)
        return largest, torch.where(largest.isfinite(), tokens, NO_TOKEN)

    return run


KERNELS = (
    Kernel("torch.embedding", "embedding", bind_embedding, no_configs, always),
    Kernel("torch.packed_embedding", "packed_embedding", bind_packed_embedding, no_configs, always),
    Kernel("torch.greedy", "greedy", bind_greedy, no_configs, always),
)
