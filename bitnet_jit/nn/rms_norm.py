"""`RMSNorm` on the rms_norm kernel (arXiv 1910.07467), by itself or inside a linear layer."""

import torch
from torch import nn

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.norm import rms_norm

INSIDE = "rms_norm"  # the name of a norm inside a linear layer, as transformers has it


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) * weight over the last dimension, computed in float32 and rounded once to x's dtype.

    Args:
        hidden_size: size of the last dimension.
        eps: added to the mean of squares.
        device: device of the weight.
        dtype: dtype of the weight.

    Raises:
        InvalidInput: hidden_size or eps is out of range.

    >>> RMSNorm(2, eps=0.0)(torch.tensor([3.0, 3.0])).tolist()
    [1.0, 1.0]
    """

    weight: nn.Parameter

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden_size, epsilon = whole_number("hidden_size", hidden_size, most=2**31 - 1), as_real(eps)
        if epsilon is None or not 0 <= epsilon < float("inf"):
            raise InvalidInput(f"eps: expected a finite number of at least 0, got {show(eps)}")
        self.hidden_size, self.eps = hidden_size, epsilon
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize x (..., hidden_size) float32, bfloat16 or float16; shape and dtype stay."""
        y: torch.Tensor = rms_norm(x, self.weight, self.eps)
        return y

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}"


def norm_inside(layer: nn.Module) -> RMSNorm | None:
    """Return the norm that a linear layer has for its input, or None."""
    return layer._modules.get(INSIDE)  # type: ignore[return-value]
