"""Checks of stored ternary weights, in a file of any format or in a layer of another library.

A value that cannot be computed with is a CheckpointError that names the tensor. Values that are only unlikely are
collected, so that a whole model of them gives one warning.
"""

import warnings
from dataclasses import dataclass, field

import torch

from bitnet_jit.errors import CheckpointError, CheckpointWarning

DENSITY = (0.2, 0.95)  # of the ternary models of the field; outside it the packing was probably misread
MAX_MULTIPLIER = 3.0  # mean|w| of real models lies in 1e-3..1, so a larger stored scale looks like 1 / mean|w|
MIN_DIVISOR = 1.0


@dataclass(frozen=True)
class CodeCount:
    """The number of codes of a weight, of codes 1 (weight 0), and of codes 3 (no ternary code)."""

    codes: int
    zeros: int
    threes: int

    @property
    def density(self) -> float:
        """Return the share of weights that are not zero."""
        return 1 - self.zeros / self.codes


@dataclass
class Oddities:
    """The unlikely scales and weights of one model, in words."""

    scales: list[str] = field(default_factory=list)
    densities: list[str] = field(default_factory=list)

    def note_scale(self, name: str, value: float, divides: bool, teller: str) -> None:
        """Remember a stored scale whose value contradicts the sense that a teller, such as config.json, gives it."""
        if value < MIN_DIVISOR if divides else value > MAX_MULTIPLIER:
            sense, other = ("1 / mean|w|, a divisor", "multiplier") if divides else ("mean|w|, a multiplier", "divisor")
            self.scales.append(f"{name} = {value:g} ({teller} makes it {sense}), which looks like a {other}")

    def note_density(self, name: str, count: CodeCount) -> None:
        """Remember a weight with a share of non-zeros that no trained model has."""
        if not DENSITY[0] <= count.density <= DENSITY[1]:
            low, high = DENSITY
            expected = f"expected a share of non-zero weights in {low}..{high}"
            self.densities.append(f"{name}: {expected}, found {count.density:.3f}: misread packing?")

    def warn(self, stacklevel: int = 2) -> None:
        """Give one CheckpointWarning per kind of oddity, which names the first tensor that shows it."""
        for start, texts in (("the scale's sense contradicts its value: ", self.scales), ("", self.densities)):
            if texts:
                others = f"; and {len(texts) - 1} more tensors" if len(texts) > 1 else ""
                warnings.warn(f"{start}{texts[0]}{others}", CheckpointWarning, stacklevel=stacklevel + 1)


def count_codes(packed: torch.Tensor, in_features: int) -> CodeCount:
    """Count the codes of a canonical weight (N, ceil(K / 4)), without the codes that fill up the last byte of a row.

    >>> count_codes(torch.tensor([[0b01_01_00_11]], dtype=torch.uint8), 3)
    CodeCount(codes=3, zeros=1, threes=1)
    """
    digits = [0, 0, 0, 0]
    for byte, times in enumerate(torch.bincount(packed.reshape(-1), minlength=256).tolist()):
        for digit in range(4):
            digits[(byte >> 2 * digit) & 3] += times
    filling = packed.shape[0] * (4 * packed.shape[1] - in_features)
    return CodeCount(packed.shape[0] * in_features, digits[1] - filling, digits[3])


def check_codes(place: str, count: CodeCount) -> CodeCount:
    """Return how many codes of each kind a weight has, and raise CheckpointError where one is 3."""
    if count.threes:
        raise CheckpointError(f"{place}: expected codes 0, 1 and 2, found the code 3 in {count.threes} places")
    return count


def multiplier(place: str, stored: torch.Tensor, divides: bool) -> torch.Tensor:
    """Return a stored scale of one element as float32 () that multiplies, in memory of its own.

    Raises:
        CheckpointError: there are several elements, or it or its inverse is not positive and finite.

    >>> multiplier("q_proj.weight_scale", torch.tensor([4.0]), divides=True)
    tensor(0.2500)
    """
    if stored.numel() != 1:
        raise CheckpointError(f"{place}: expected one element, found {tuple(stored.shape)}")
    stored = stored.detach().float().reshape(())
    scale = torch.ones_like(stored) / stored if divides else stored.clone()
    if not (float(stored) > 0 and 0 < float(scale) < float("inf")):
        raise CheckpointError(f"{place}: expected a positive finite scale, found {float(stored):g}")
    return scale


def check_finite(place: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of floats, and raise CheckpointError where it holds NaN or infinity."""
    if not bool(torch.stack(tensor.aminmax()).isfinite().all()):
        raise CheckpointError(f"{place}: expected finite values, found NaN or infinity")
    return tensor
