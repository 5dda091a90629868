"""Ternary weights in our terms: canonical `i2` codes, float32 scales that multiply, and biases that are added last."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from bitnet_jit.packing.i2 import I2
from bitnet_jit.quant.rotation import SignedBlocks


@dataclass(frozen=True)
class TernaryWeight:
    """One ternary linear layer.

    Attributes:
        w_packed: canonical i2, uint8 (N, ceil(K / 4)).
        w_scale: float32, multiplies: () of the tensor, (N,) of rows, or (N, ceil(K / group_size)) of groups.
        bias: (N,) or None, added last.
        in_features: K.
        group_size: inputs per group with scales of groups, else 0.
        activation: how the model was made to run it: "a8", "a8g" or "a16"; see `PackedBitLinear`.
        rotation: of the input, where the weight was folded, else None.
    """

    w_packed: torch.Tensor
    w_scale: torch.Tensor
    bias: torch.Tensor | None
    in_features: int
    group_size: int = 0
    activation: str = "a8"
    rotation: SignedBlocks | None = None


def with_rows(weight: TernaryWeight, order: Callable[[torch.Tensor], torch.Tensor]) -> TernaryWeight:
    """Return a weight with its rows in another order, and their scales and biases; codes stay in the memory they have.

    Args:
        weight: the weight.
        order: rows (N, ...) -> the same rows in their new order.
    """
    weight.w_packed.copy_(order(weight.w_packed))
    w_scale = order(weight.w_scale) if weight.w_scale.dim() else weight.w_scale
    return replace(weight, w_scale=w_scale, bias=None if weight.bias is None else order(weight.bias))


def empty_i2(out_features: int, in_features: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return memory for a canonical weight, uint8 (N, ceil(K / 4))."""
    return torch.empty(I2.packed_shape(out_features, in_features), dtype=torch.uint8, device=device)
