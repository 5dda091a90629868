"""The scales of a weight by the blocks of inputs that a format has."""

import torch

from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import InvalidInput


def block_scales(name: str, weight: TernaryWeight, block: int) -> torch.Tensor:
    """Return the scales of a weight by blocks of inputs, float32 (N, K / block)."""
    blocks = weight.in_features // block
    if not weight.group_size:
        return weight.w_scale.reshape(-1, 1).expand(len(weight.w_packed), blocks)
    if weight.group_size % block == 0:
        return weight.w_scale.repeat_interleave(weight.group_size // block, 1)[:, :blocks]
    groups = weight.w_scale.unflatten(1, (blocks, -1)) if block % weight.group_size == 0 else None
    if groups is None or bool(((groups != 0) & (groups != groups.amax(2, keepdim=True))).any()):
        raise InvalidInput(f"format: a scale per {block} inputs, {name} has one per {weight.group_size}")
    largest: torch.Tensor = groups.amax(2)
    return largest
