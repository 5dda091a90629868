"""How rotary frequencies are stretched so that a model reads more tokens than it was trained on.

Every way changes the frequencies f = theta^(-2i / D), and some multiply cosines and sines by a magnitude besides. The
formulas are those of transformers (`modeling_rope_utils.py`); YaRN is arXiv 2309.00071, LongRoPE arXiv 2402.13753.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: every wave slows down by `factor`."""

    factor: float
    magnitude = 1.0

    def scaled(self, plain: torch.Tensor, theta: float) -> torch.Tensor:  # noqa: ARG002
        """Return the frequencies (D / 2,) float32 of plain ones."""
        return plain / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's: long waves slow down by `factor`, short ones stay, those between are blended.

    Attributes:
        factor: the ratio of the new context to the old one.
        low_freq_factor: wavelengths above original_context / low_freq_factor are divided by `factor` entirely.
        high_freq_factor: wavelengths below original_context / high_freq_factor stay as they were.
        original_context: tokens that the model was trained on before.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    magnitude = 1.0

    def scaled(self, plain: torch.Tensor, theta: float) -> torch.Tensor:  # noqa: ARG002
        """Return the frequencies (D / 2,) float32 of plain ones."""
        low, high = self.low_freq_factor, self.high_freq_factor
        wavelength = 2 * math.pi / plain
        ramp = (self.original_context / wavelength - low) / (high - low)
        between = (1 - ramp) * plain / self.factor + ramp * plain
        slowed = torch.where(wavelength > self.original_context / low, plain / self.factor, between)
        return torch.where(wavelength < self.original_context / high, plain, slowed)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: waves that turn often within the original context stay, those that turn seldom slow down by `factor`.

    Attributes:
        factor: the ratio of the new context to the old one.
        original_context: tokens that the model was trained on before.
        beta_fast: turns within the original context above which a wave stays.
        beta_slow: turns below which it is divided by `factor` entirely.
        magnitude: of cosines and sines; `yarn_magnitude` is what the paper has.
        truncate: whether the bounds of the ramp between are whole numbers of pairs.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float = 1.0
    truncate: bool = True

    def scaled(self, plain: torch.Tensor, theta: float) -> torch.Tensor:
        """Return the frequencies (D / 2,) float32 of plain ones, whose base is theta."""
        width = 2 * len(plain)
        low, high = (self._pair(turns, width, theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        pairs = torch.arange(len(plain), dtype=torch.float32, device="cpu")
        ramp = ((pairs - low) / (high - low or 0.001)).clamp(0, 1)
        return plain / self.factor * ramp + plain * (1 - ramp)

    def _pair(self, turns: float, width: int, theta: float) -> float:
        """Return which pair of dimensions turns so often within the original context."""
        return width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True)
class DividedScaling:
    """A divisor per pair of dimensions: LongRoPE's lists, and llama.cpp's `rope_freqs`.

    Attributes:
        divisors: of the frequencies, D / 2 of them.
        magnitude: of cosines and sines; `longrope_magnitude` is what the paper has.
    """

    divisors: tuple[float, ...]
    magnitude: float = 1.0

    def scaled(self, plain: torch.Tensor, theta: float) -> torch.Tensor:  # noqa: ARG002
        """Return the frequencies (D / 2,) float32 of plain ones."""
        return plain / torch.tensor(self.divisors, dtype=torch.float32, device="cpu")


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | DividedScaling


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """Return what YaRN multiplies cosines and sines by.

    >>> round(yarn_magnitude(4.0), 4)
    1.1386
    """
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def longrope_magnitude(factor: float, original_context: int) -> float:
    """Return what LongRoPE multiplies cosines and sines by.

    >>> round(longrope_magnitude(32.0, 4096), 4)
    1.1902
    """
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))
