"""Ternary weights of a checkpoint -> canonical `i2` codes, float32 scales that multiply, and biases; tensor by tensor.

Layers that share an input (q, k and v; gate and up) come as one weight: their rows one below the other, each row with
its tensor's scale. That changes no number: a row of the output depends on its own row of the weight alone.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from bitnet_jit.checkpoints.formats.hf_config import Storage
from bitnet_jit.checkpoints.formats.hf_packing import CodeCount, count_codes, repack
from bitnet_jit.checkpoints.formats.own_format import check_own, to_i2
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.errors import CheckpointWarning
from bitnet_jit.packing import FORMATS
from bitnet_jit.quant.weight import absmean

DENSITY = (0.2, 0.95)  # of the ternary models of the field; outside it the packing was probably misread
MAX_MULTIPLIER = 3.0  # mean|w| of real models lies in 1e-3..1, so a larger stored scale looks like 1 / mean|w|
SMALLEST_DIVISOR = 1.0
SLICE_ELEMENTS = 2**18  # of a master weight, quantized at a time
FORMAT = FORMATS["i2"]


@dataclass(frozen=True)
class TernaryWeight:
    """One ternary linear layer.

    Attributes:
        w_packed: canonical i2, uint8 (N, ceil(K / 4)).
        w_scale: float32 () of one tensor, or (N,) of several.
        bias: float32 (N,) or None.
        in_features: K.
    """

    w_packed: torch.Tensor
    w_scale: torch.Tensor
    bias: torch.Tensor | None
    in_features: int


@dataclass
class TernaryReader:
    """Reads the ternary layers of one checkpoint and remembers what looked wrong in them."""

    files: TensorFiles
    storage: Storage
    odd_scales: list[str] = field(default_factory=list)
    odd_densities: list[str] = field(default_factory=list)

    def require(self, name: str, out_features: int, in_features: int, has_bias: bool) -> None:
        """Raise CheckpointError unless the layer's tensors are there, with the right shapes and dtypes."""
        if self.storage.own:
            check_own(self.files, f"{name}.weight", self.storage.own, out_features, in_features)
        elif self.storage.packed:
            self.files.require(f"{name}.weight", (-(-out_features // 4), in_features), ("U8",))
        if self.storage.packed:
            self._require_scale(f"{name}.weight_scale")
        else:
            self.files.require(f"{name}.weight", (out_features, in_features))
        if has_bias:
            self.files.require(f"{name}.bias", (out_features,))

    def tensor_names(self, name: str, has_bias: bool) -> list[str]:
        """The tensors that a layer consists of."""
        return [f"{name}.weight", *[f"{name}.weight_scale"] * self.storage.packed, *[f"{name}.bias"] * has_bias]

    def read(self, parts: Sequence[tuple[str, int]], in_features: int, has_bias: bool) -> TernaryWeight:
        """Layers (name, out_features) that share an input, as one weight. `require` each of them before.

        Raises:
            CheckpointError: a code is 3, a scale is not positive and finite, a value is not finite.
        """
        out_features = sum(rows for _, rows in parts)
        w_packed = torch.empty(FORMAT.packed_shape(out_features, in_features), dtype=torch.uint8, device="cpu")
        scales, biases, start = [], [], 0
        for name, rows in parts:
            part = w_packed[start : start + rows]
            scale = self._read_packed(name, part, in_features) if self.storage.packed else self._quantize(name, part)
            scales.append(scale if len(parts) == 1 else scale.expand(rows))
            if has_bias:
                biases.append(self._read_bias(f"{name}.bias", scale))
            start += rows
        w_scale = scales[0] if len(parts) == 1 else torch.cat(scales)
        return TernaryWeight(w_packed, w_scale, torch.cat(biases) if has_bias else None, in_features)

    def _require_scale(self, name: str) -> None:
        """Raise CheckpointError unless there is a scale of one element."""
        entry = self.files.entries.get(name)
        self.files.require(name, () if entry is not None and entry.shape == () else (1,))

    def _read_packed(self, name: str, out: torch.Tensor, in_features: int) -> torch.Tensor:
        """Fill `out` with a layer's codes; returns its scale, float32 ()."""
        stored = self.files.read(f"{name}.weight")
        if self.storage.own:
            to_i2(stored, out, in_features, self.storage.own)
        else:
            repack(stored, out, in_features)
        count = count_codes(out, in_features)
        if count.threes:
            raise self.files.error(f"{name}.weight", "codes 0, 1 and 2", f"the code 3 in {count.threes} places")
        self._note_density(f"{name}.weight", count)
        return self._read_scale(f"{name}.weight_scale")

    def _read_scale(self, name: str) -> torch.Tensor:
        """A stored scale as float32 () that multiplies."""
        stored = self.files.read(name).float().reshape(())
        value = float(stored)
        scale = torch.ones_like(stored) / stored if self.storage.scale_divides else stored.clone()
        if not (value > 0 and 0 < float(scale) < float("inf")):
            raise self.files.error(name, "a positive finite scale", f"{value:g}")
        divides = self.storage.scale_divides
        if value < SMALLEST_DIVISOR if divides else value > MAX_MULTIPLIER:
            expected = "1 / mean|w|, a divisor" if divides else "mean|w|, a multiplier"
            self.odd_scales.append(f"{name} = {value:g} (config.json makes it {expected})")
        return scale

    def _read_bias(self, name: str, scale: torch.Tensor) -> torch.Tensor:
        """A bias, float32 (N,), to be added last; where the stored scale multiplies it too, so does this."""
        bias = checked_floats(self.files, name).float()
        scaled = self.storage.packed and not self.storage.scale_divides and not self.storage.own
        return bias * scale if scaled else bias.clone()

    def _quantize(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """Fill `out` with the absmean codes of a master weight; returns its scale, float32 ()."""
        w = checked_floats(self.files, f"{name}.weight")
        scale = absmean(w, "tensor", 0)
        step = max(1, SLICE_ELEMENTS // w.shape[1])
        for start in range(0, w.shape[0], step):
            part = slice(start, start + step)
            out[part] = FORMAT.pack((w[part].float() / scale).round_().clamp_(-1, 1).to(torch.int8))
        self._note_density(f"{name}.weight", count_codes(out, w.shape[1]))
        return scale

    def _note_density(self, name: str, count: CodeCount) -> None:
        if not DENSITY[0] <= count.density <= DENSITY[1]:
            self.odd_densities.append(f"{name} has {count.density:.3f}")

    def warn(self) -> None:
        """One CheckpointWarning a kind of oddity, naming the first tensor that shows it."""
        if self.odd_scales:
            tell(f"the scale's sense contradicts its value: {self.odd_scales[0]}", len(self.odd_scales))
        if self.odd_densities:
            low, high = DENSITY
            expected = f"expected a share of non-zero weights in {low}..{high}"
            tell(f"{expected}, {self.odd_densities[0]}: misread packing?", len(self.odd_densities))


def tell(message: str, number: int) -> None:
    """Warn once for `number` tensors."""
    others = f"; and {number - 1} more tensors" if number > 1 else ""
    warnings.warn(message + others, CheckpointWarning, stacklevel=2)


def checked_floats(files: TensorFiles, name: str) -> torch.Tensor:
    """Copy a floating-point tensor out of its file.

    Raises:
        CheckpointError: it holds NaN or infinity.
    """
    found = files.read(name)
    if not all(math.isfinite(float(extreme)) for extreme in found.aminmax()):
        raise files.error(name, "finite values", "NaN or infinity")
    return found
