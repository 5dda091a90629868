"""`LoraLinear`: a packed layer and the factors of an adapter beside it (LoRA, Hu et al., arXiv 2106.09685).

    y = base(x) + alpha / r * dropout(x) @ A.T @ B.T        A (r, K), B (N, r)

Here x is the input that the base multiplies: where it has a norm inside, the normalized one. The base stays packed and
frozen; gradients pass through it to x, by `bit_linear_input_grad`. Only A and B are trained, in float32 unless they are
converted. B starts at zero, so a new adapter changes no output.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.dense_weight import ReadsDense
from bitnet_jit.nn.fast_path import Called
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import norm_inside
from bitnet_jit.problem import MAX_IN_FEATURES

FACTORS = ("lora_A", "lora_B")


class Factor(nn.Linear):
    """One of the two small matrices; a class apart, so that `convert` makes no ternary layer of it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (..., out_features) of the input's dtype for (..., in_features), whatever the weight's dtype is."""
        return F.linear(input, self.weight.to(input.dtype))


class LoraLinear(ReadsDense, Called, nn.Module):
    """A frozen `PackedBitLinear` and trainable low-rank factors beside it.

    Args:
        base: the layer; its parameters are frozen.
        r: rank of the update.
        alpha: the update is multiplied by alpha / r.
        dropout: share of the update's inputs that is dropped in training, from 0 to below 1.

    Attributes:
        base: the packed layer.
        lora_A: its weight is A (r, K) float32, Kaiming-uniform with a = sqrt(5).
        lora_B: its weight is B (N, r) float32, zeros at first.
        scaling: alpha / r.
        weight: as the packed layer has it, with the update added: a stand-in for code that reads it.
        bias: the packed layer's.

    Raises:
        InvalidInput: base is no PackedBitLinear, or a number is out of range.

    >>> layer = LoraLinear(PackedBitLinear(8, 4, bias=False), r=2)
    >>> [(name, tuple(p.shape)) for name, p in layer.named_parameters() if p.requires_grad]
    [('lora_A.weight', (2, 8)), ('lora_B.weight', (4, 2))]
    """

    def __init__(self, base: PackedBitLinear, r: int = 16, alpha: float = 32.0, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(base, PackedBitLinear):
            raise InvalidInput(f"base: expected a PackedBitLinear, got {type(base).__name__}")
        r, alpha, dropout = check_numbers(r, alpha, dropout)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.r, self.alpha, self.dropout = r, alpha, dropout
        self.scaling = alpha / r
        device = base.w_packed.device
        self.lora_A = Factor(self.in_features, r, bias=False, device=device, dtype=torch.float32)
        self.lora_B = Factor(r, self.out_features, bias=False, device=device, dtype=torch.float32)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.base = base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., N) of x's dtype for x (..., K) float32, bfloat16 or float16; under autocast, of autocast's."""
        y: torch.Tensor = self.base(x)
        if (norm := norm_inside(self.base)) is not None:
            x = norm(x)
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return torch.add(y, self.lora_B(self.lora_A(dropped)), alpha=self.scaling)

    @property
    def weight_dtype(self) -> torch.dtype:  # type: ignore[override]
        """Return the dtype of `weight`: the packed layer's."""
        return self.base.weight_dtype

    @property
    def bias(self) -> nn.Parameter | None:
        """Return the packed layer's bias (N,), or None."""
        return self.base.bias

    def _dense(self) -> torch.Tensor:
        update = self.lora_B.weight.detach().float() @ self.lora_A.weight.detach().float()
        return (self.base.dequantize() + self.scaling * update).to(self.weight_dtype)

    def _place(self) -> torch.device:
        return self.base.w_packed.device

    def extra_repr(self) -> str:
        return f"r={self.r}, alpha={self.alpha:g}, dropout={self.dropout:g}"


def check_numbers(r: int, alpha: float, dropout: float) -> tuple[int, float, float]:
    """Return the numbers of an adapter as Python's; raise InvalidInput where one is out of range."""
    rank = whole_number("r", r, most=MAX_IN_FEATURES)
    scale, share = as_real(alpha), as_real(dropout)
    if scale is None or not 0 < scale < math.inf:
        raise InvalidInput(f"alpha: expected a positive finite number, got {show(alpha)}")
    if share is None or not 0 <= share < 1:
        raise InvalidInput(f"dropout: expected a number from 0 to below 1, got {show(dropout)}")
    return rank, scale, share
