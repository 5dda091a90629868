"""Ternary layers that share an input (q, k and v; gate and up) as one weight.

Their rows lie one below the other, each row with its tensor's scale. That changes no number: a row of the output
depends on its own row of the weight alone.
"""

import math
from collections.abc import Sequence

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.ternary import TernaryWeight, empty_i2
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.errors import CheckpointError
from bitnet_jit.quant.rotation import SignedBlocks


def read_joint(reader: Reader, layers: Sequence[LinearName], device: torch.device = CPU) -> TernaryWeight:
    """Read layers that share an input as one weight, codes straight into the memory where they stay on a device.

    Raises:
        CheckpointError: a code is 3, a scale is not positive and finite, a value is not finite, or the layers rotate
            their input differently.
    """
    first = layers[0]
    w_packed = empty_i2(sum(layer.out_features for layer in layers), first.in_features, device)
    parts = torch.split(w_packed, [layer.out_features for layer in layers])
    weights = [reader.ternary(layer, part) for layer, part in zip(layers, parts, strict=True)]
    w_scale, group_size = joint_scale(weights)
    bias = torch.cat([weight.bias for weight in weights if weight.bias is not None]) if first.has_bias else None
    activation = "a16" if any(weight.activation == "a16" for weight in weights) else weights[0].activation
    rotation = joint_rotation(layers, weights)
    return TernaryWeight(w_packed, w_scale, bias, first.in_features, group_size, activation, rotation)


def joint_rotation(layers: Sequence[LinearName], weights: Sequence[TernaryWeight]) -> SignedBlocks | None:
    """Return the rotation of the input that layers share; raise CheckpointError where they rotate it differently."""
    first = weights[0].rotation
    for layer, weight in zip(layers, weights, strict=True):
        if not (weight.rotation is first or (first is not None and first.same_as(weight.rotation))):
            raise CheckpointError(
                f"{layer.name}: expected its input rotated as that of {layers[0].name}, which it shares ({first}), "
                f"found {weight.rotation}"
            )
    return first


def joint_scale(weights: Sequence[TernaryWeight]) -> tuple[torch.Tensor, int]:
    """Return the scales of weights one below the other, and the inputs per scale: 0 where no weight has groups."""
    if len(weights) == 1:
        return weights[0].w_scale, weights[0].group_size
    sizes = [weight.group_size for weight in weights if weight.group_size]
    if not sizes:
        return torch.cat([per_row(weight) for weight in weights]), 0
    size = math.gcd(*sizes)
    return torch.cat([per_group(weight, size) for weight in weights]), size


def per_row(weight: TernaryWeight) -> torch.Tensor:
    """Return the scales of a weight without groups by rows, (N,)."""
    return weight.w_scale if weight.w_scale.dim() else weight.w_scale.expand(len(weight.w_packed))


def per_group(weight: TernaryWeight, size: int) -> torch.Tensor:
    """Return the scales of a weight by groups of `size` inputs, which divides its own, (N, groups)."""
    groups = -(-weight.in_features // size)
    if not weight.group_size:
        return per_row(weight)[:, None].expand(-1, groups)
    return weight.w_scale.repeat_interleave(weight.group_size // size, 1)[:, :groups]
