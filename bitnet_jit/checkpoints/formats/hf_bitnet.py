"""Storages of quant_method "bitnet", transformers' own: 2-bit codes with a scale, or float weights.

| linear_class          | quantization_mode | weight          | weight_scale                 | bias                   |
|-----------------------|-------------------|-----------------|------------------------------|------------------------|
| absent or "bitlinear" | any               | packed, 2 bits  | a divisor, 1 / mean|w|       | added last             |
| "autobitlinear"       | "offline"         | packed, 2 bits  | a multiplier, mean|w|        | added before the scale |
| "autobitlinear"       | "online"          | floating point  | none; absmean of the weight  | added last             |
"""

from dataclasses import dataclass

import torch

from bitnet_jit.checkpoints.checks import Oddities, check_codes, check_finite, count_codes
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.decoding import decode
from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.formats.hf_packing import HUGGING_FACE, packed_rows
from bitnet_jit.checkpoints.formats.hf_storage import (
    FloatTables,
    FloatWeights,
    Storage,
    check_unconverted,
    read_bias,
    read_scale,
    require_bias,
    require_scale,
)
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.packing.i2 import I2
from bitnet_jit.quant.weight import absmean

METHOD = "bitnet"
SLICE_ELEMENTS = 2**18  # of a master weight, quantized at a time


@dataclass(frozen=True)
class Packed(FloatTables):
    """2-bit codes with a weight_scale beside them.

    Attributes:
        scale_divides: weight_scale is 1 / mean|w|; else mean|w|, and a bias was added before the scale multiplied.
    """

    scale_divides: bool

    @property
    def description(self) -> str:
        """Return how layers are stored, in words."""
        return f"2 bits with a scale that {'divides' if self.scale_divides else 'multiplies'}"

    def require(self, files: TensorFiles, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors, which must be there."""
        files.require(f"{layer.name}.weight", (packed_rows(layer.out_features), layer.in_features), ("U8",))
        return [f"{layer.name}.weight", require_scale(files, layer), *require_bias(files, layer)]

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer, its codes into `out`."""
        name = f"{layer.name}.weight"
        count = decode(HUGGING_FACE, files.read(name, out.device), out, layer.in_features)
        oddities.note_density(name, check_codes(files.place(name), count))
        scale, bias = read_scale(files, layer, self.scale_divides, oddities), read_bias(files, layer)
        if bias is not None and not self.scale_divides:
            bias = bias * scale
        return TernaryWeight(out, scale, bias, layer.in_features)


@dataclass(frozen=True)
class Online(FloatWeights):
    """Master weights in floats, to be quantized by absmean."""

    description = "floats to be quantized by absmean"

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer, its codes into `out`."""
        name = f"{layer.name}.weight"
        scale = quantize_into(check_finite(files.place(name), files.read(name)), out)
        oddities.note_density(name, count_codes(out, layer.in_features))
        return TernaryWeight(out, scale, read_bias(files, layer), layer.in_features)


def read_bitnet(fields: Fields) -> Storage:
    """Return the storage that a quantization_config describes."""
    linear_class = fields.word("linear_class", ("bitlinear", "autobitlinear"), "bitlinear")
    mode = fields.word("quantization_mode", ("offline", "online"), "offline")
    if fields.flag("use_rms_norm", False):
        raise fields.refuse("use_rms_norm", "false: an rms_norm inside every linear layer is not supported")
    check_unconverted(fields)
    if linear_class == "autobitlinear" and mode == "online":
        return Online()
    return Packed(scale_divides=linear_class == "bitlinear")


def quantize_into(w: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Fill `out`, canonical i2, with the absmean codes of w (N, K), slice by slice; return its scale, float32 ().

    >>> out = torch.empty(1, 1, dtype=torch.uint8)
    >>> quantize_into(torch.tensor([[3.0, -1.0]]), out), I2.unpack(out, 2)
    (tensor(2.), tensor([[1, 0]], dtype=torch.int8))
    """
    scale = absmean(w, "tensor", 0)
    step = max(1, SLICE_ELEMENTS // w.shape[1])
    for start in range(0, w.shape[0], step):
        part = slice(start, start + step)
        out[part] = I2.pack((w[part].float() / scale).round_().clamp_(-1, 1).to(torch.int8))
    return scale
