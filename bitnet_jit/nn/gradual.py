"""A layer on its way from a plain linear one to a ternary one, as training goes on.

    x' = x + s * (Q(x) - x)        w' = w + s * (Q(w) - w)        y = x' @ w'.T + bias

Q quantizes and gives floats again, s is the strength from 0 to 1, and gradients pass Q straight through. So a dense
model is fine-tuned into a ternary one without a jump of its loss (Hugging Face, "Fine-tuning LLMs to 1.58bit", 2024).
"""

import torch
from torch.nn import functional as F

import bitnet_jit.ops.rounding  # noqa: F401  registers what is called here

STRENGTH = "strength"  # a buffer of layers on their way


def blended(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, strength: torch.Tensor) -> torch.Tensor:
    """Compute a layer on its way from x (..., K) and weight (N, K): (..., N) of x's dtype, or of autocast's."""
    ops = torch.ops.bitnet_jit
    mixed_x = x + strength * (ops.round_activation(x.detach()) - x.detach())
    mixed_w = weight + strength * (ops.round_weight(weight.detach()) - weight.detach())
    return F.linear(mixed_x, mixed_w.to(x.dtype), None if bias is None else bias.to(x.dtype))
