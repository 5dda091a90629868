"""Rotary positions (RoFormer, arXiv 2104.09864), plain and as Llama 3.1 scales them, on heads split into halves.

frequency_i = theta^(-2i / D)                     i = 0 .. D/2 - 1
(x1, x2)   -> (x1 cos - x2 sin, x2 cos + x1 sin)  with the angle position * frequency, x1 and x2 a head's halves

The tables are as wide as a head, and the sine's first half is negative: so one product with (x1, x2) and one with
(x2, x1) do it.
"""

import math

import torch

from bitnet_jit.models.config import DecoderConfig, RopeScaling


class Rope:
    """Tables of cosines and sines, made when positions are first asked for and grown in powers of two."""

    def __init__(self, config: DecoderConfig) -> None:
        self.frequencies = frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self._tables = (torch.empty(0, config.head_dim, dtype=torch.float32, device="cpu"),) * 2

    def tables(
        self, start: int, stop: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions start..stop-1, each (stop - start, 1, D) of that dtype, on that device."""
        cos, sin = self._tables
        if stop > len(cos) or cos.device != device or cos.dtype != dtype:
            length = max(len(cos), 1 << (stop - 1).bit_length())
            angles = torch.arange(length, dtype=torch.float32, device="cpu")[:, None] * self.frequencies
            cos = angles.cos().repeat(1, 2).to(device, dtype)
            sin = torch.cat((-angles.sin(), angles.sin()), 1).to(device, dtype)
            self._tables = cos, sin
        return cos[start:stop, None], sin[start:stop, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (..., T, heads, D) turned by the tables (T, 1, D)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> torch.Tensor:
    """Radians a position for each pair of dimensions, float32 (head_dim / 2,).

    >>> frequencies(4, 100.0, None)
    tensor([1.0000, 0.1000])
    """
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    return plain if scaling is None else scaled(plain, scaling)


def scaled(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Llama 3.1's frequencies: long waves slowed by `factor`, short ones kept, those between on a ramp."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = 2 * math.pi / plain
    ramp = (scaling.original_context / wavelength - low) / (high - low)
    between = (1 - ramp) * plain / scaling.factor + ramp * plain
    slowed = torch.where(wavelength > scaling.original_context / low, plain / scaling.factor, between)
    return torch.where(wavelength < scaling.original_context / high, plain, slowed)
