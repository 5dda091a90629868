"""`HfWriter`: the writer of transformers' own packed formats.

A reader's 1 / weight_scale need not be the scale that we had, nor bias * weight_scale the bias; where a neighbour
brings that back, it is taken. A divided bias is float32, whatever the dtype of the bias.
"""

from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.checkpoints.formats.hf_bitnet import METHOD
from bitnet_jit.checkpoints.formats.nearest import nearest
from bitnet_jit.errors import InvalidInput
from bitnet_jit.quant.rotation import SignedBlocks


@dataclass(frozen=True)
class HfWriter:
    """The packed format of a linear_class of transformers; see `Writer`.

    Attributes:
        name: the linear_class, by which `save` knows the format too.
        scale_divides: weight_scale is 1 / mean|w|; else mean|w|, and a reader multiplies the bias by it.
    """

    name: str
    scale_divides: bool
    by_transformers = True
    activations = ("a8",)

    def stored_scale(self, scale: torch.Tensor) -> torch.Tensor:
        """Return the scale as it is stored."""
        return divisor_of(scale) if self.scale_divides else scale

    def stored_weight(self, name: str, codes: torch.Tensor) -> torch.Tensor:
        """Return codes as they are stored."""
        self.weight_shape(name, *codes.shape)
        return pack_rows(codes)

    def weight_shape(self, name: str, out_features: int, in_features: int) -> tuple[int, ...]:
        """Return the shape of codes as they are stored."""
        if out_features % 4:
            raise InvalidInput(
                f"{name}: format {self.name!r} holds a multiple of 4 outputs, got {out_features}; i2 and t5 any"
            )
        return out_features // 4, in_features

    def stored_bias(self, name: str, bias: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return a bias as it is stored."""
        return bias if self.scale_divides else divided(name, bias, scale)

    def stored_rotation(self, name: str, rotation: SignedBlocks) -> torch.Tensor:
        """Refuse a layer whose weight was folded: transformers would run it on an input that is not rotated."""
        raise InvalidInput(f"{name}: format {self.name!r} holds no rotated weights, got {rotation}; use i2 or t5")

    def quantization_config(self, eps_inside: float | None, dense: list[str] | None) -> dict[str, Any]:
        """Return the quantization_config of config.json."""
        said: dict[str, Any] = {
            "quant_method": METHOD,
            "linear_class": self.name,
            "quantization_mode": "offline",
        }
        if dense is not None:  # mlx-lm takes a list or nothing
            said["modules_to_not_convert"] = dense
        return said if eps_inside is None else said | {"use_rms_norm": True, "rms_norm_eps": eps_inside}

    def metadata(self, shapes: dict[str, tuple[int, int]], activation: str = "a8") -> dict[str, str]:  # noqa: ARG002
        """Return the metadata of the file."""
        return {"format": "pt"}


def divided(name: str, bias: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return float32 (N,) whose product with the scale, float32 (1,), is the bias (N,), or comes nearest to it.

    Raises:
        InvalidInput: it is too large for the bias's dtype, in which transformers will hold it.

    >>> divided("q_proj", torch.tensor([1.0, 3.0]), torch.tensor([0.5])).tolist()
    [2.0, 6.0]
    """
    wanted = bias.float()
    first = wanted / scale
    if not bool(first.to(bias.dtype).isfinite().all()):
        raise InvalidInput(
            f"{name}.bias: format 'autobitlinear' divides it by the scale {float(scale):g}, which is not finite in "
            f"{bias.dtype}; use bitlinear, i2 or t5"
        )
    return nearest(wanted, lambda stored: stored * scale, first)


def pack_rows(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes -1..1 (N, K) int8 into uint8 (N / 4, K), row i * N / 4 + j at bits 2i of byte row j.

    >>> pack_rows(torch.tensor([[-1], [0], [1], [0]], dtype=torch.int8)).item() == 0b01_10_01_00
    True
    """
    quarters = (codes + 1).to(torch.uint8).reshape(4, -1, codes.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def divisor_of(scale: torch.Tensor) -> torch.Tensor:
    """Return a float32 (1,) whose inverse is that scale, or comes nearest to it."""
    return nearest(scale, torch.reciprocal, scale.reciprocal())
