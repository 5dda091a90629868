"""Ternary layers that share an input (q, k and v; gate and up) as one weight.

Their rows lie one below the other, each row with its tensor's scale. That changes no number: a row of the output
depends on its own row of the weight alone.
"""

from collections.abc import Sequence

import torch

from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.ternary import TernaryWeight, empty_i2
from bitnet_jit.devices.huge_pages import CPU


def read_joint(reader: Reader, layers: Sequence[LinearName], device: torch.device = CPU) -> TernaryWeight:
    """Read layers that share an input as one weight, codes straight into the memory where they stay on a device.

    Raises:
        CheckpointError: a code is 3, a scale is not positive and finite, a value is not finite.
    """
    first = layers[0]
    w_packed = empty_i2(sum(layer.out_features for layer in layers), first.in_features, device)
    parts = torch.split(w_packed, [layer.out_features for layer in layers])
    weights = [reader.ternary(layer, part) for layer, part in zip(layers, parts, strict=True)]
    w_scale = weights[0].w_scale if len(layers) == 1 else torch.cat([per_row(weight) for weight in weights])
    bias = torch.cat([weight.bias for weight in weights if weight.bias is not None]) if first.has_bias else None
    return TernaryWeight(w_packed, w_scale, bias, first.in_features, weights[0].group_size)


def per_row(weight: TernaryWeight) -> torch.Tensor:
    """Return the scales of a weight by rows, (N,) or (N, groups)."""
    return weight.w_scale if weight.w_scale.dim() else weight.w_scale.expand(len(weight.w_packed))
