"""`OwnWriter`: the writer of our own format, see own_format.py."""

import json
from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.checkpoints.formats.own_format import ACTIVATIONS, METHOD, metadata_of
from bitnet_jit.packing import FORMATS
from bitnet_jit.quant.rotation import SignedBlocks


@dataclass(frozen=True)
class OwnWriter:
    """Our own format with one of our packings; see `Writer`.

    Attributes:
        name: the packing, by which `save` knows the format too.
    """

    name: str
    by_transformers = False
    activations = ACTIVATIONS

    def stored_scale(self, scale: torch.Tensor) -> torch.Tensor:
        """Return the scale as it is."""
        return scale

    def stored_weight(self, name: str, codes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return codes in the canonical packing."""
        packed: torch.Tensor = FORMATS[self.name].pack(codes)
        return packed

    def weight_shape(self, name: str, out_features: int, in_features: int) -> tuple[int, ...]:  # noqa: ARG002
        """Return the shape of the canonical packing."""
        return FORMATS[self.name].packed_shape(out_features, in_features)

    def stored_bias(self, name: str, bias: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the bias as it is."""
        return bias

    def stored_rotation(self, name: str, rotation: SignedBlocks) -> torch.Tensor:  # noqa: ARG002
        """Return signs by blocks, float32 (K / block, block)."""
        return rotation.signs.view(-1, rotation.block).cpu().clone()

    def quantization_config(self, eps_inside: float | None, dense: list[str] | None) -> dict[str, Any]:  # noqa: ARG002
        """Return the quantization_config of config.json, which names no layers."""
        return {"quant_method": METHOD, "packing": self.name, "modules_to_not_convert": None}

    def metadata(self, shapes: dict[str, tuple[int, int]], activation: str = "a8") -> dict[str, str]:
        """Return the metadata of the file: version, packing, activation, and shapes."""
        return {"format": "pt", **metadata_of(self.name, activation), "shapes": json.dumps(shapes)}
