"""Rotary positions (RoFormer, arXiv 2104.09864), plain or scaled (`rope_scaling.py`), on heads split into halves.

frequency_i = theta^(-2i / D)                     i = 0 .. D/2 - 1
(x1, x2)   -> (x1 cos - x2 sin, x2 cos + x1 sin)  with the angle position * frequency, x1 and x2 a head's halves

Where only the first dimensions of a head turn (Qwen3.5), a packed model's rows of q and k are in another order, so that
those dimensions are the first ones of both halves, and the frequencies of the others are 0: see `head_order`.

A packed model's heads are rotated by `ops/attention.py`, which reads cosines and sines as they are. `rotate` is for
models that learn: its tables are as wide as a head, and the first half of the sine is negative, so one product with
(x1, x2) and one with (x2, x1) suffice.
"""

import math

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.rope_scaling import DividedScaling, RopeScaling

MAX_SHOWN = 300  # characters of a scaling in an error: some have a list of divisors


class Rope:
    """Cosines and sines of positions, made at the first use of a position and grown in powers of two.

    Raises:
        InvalidInput: the config gives angles that are no finite float32 numbers; see `check_rope`.
    """

    def __init__(self, config: DecoderConfig) -> None:
        check_rope(config)
        self.frequencies = padded(
            frequencies(turned(config), config.rope_theta, config.rope_scaling), config.head_dim // 2
        )
        self.magnitude = 1.0 if config.rope_scaling is None else config.rope_scaling.magnitude
        local = config.local
        self._local = None if local is None else frequencies(config.head_dim, local.rope_theta, None)
        self._rotary = torch.empty(0, config.head_dim, dtype=torch.float32, device="cpu")

    def rotary(self, length: int, device: torch.device) -> torch.Tensor:
        """Return cosines, then sines, of at least the positions below `length`: float32 (C, D) on a device.

        Where local layers have frequencies of their own: (2, C, D), those of local layers last.
        """
        there = self._rotary.shape[-2]
        if length > there or self._rotary.device != device:
            positions = torch.arange(max(there, 1 << (length - 1).bit_length()), dtype=torch.float32, device="cpu")
            tables = turns(positions, self.frequencies) * self.magnitude
            if self._local is not None:
                tables = torch.stack((tables, turns(positions, self._local)))
            self._rotary = tables.to(device)
        return self._rotary

    def tables(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines for `rotate`, each float32 (length, 1, D) on the CPU."""
        cos, sin = self.rotary(length, torch.device("cpu"))[:length, None].chunk(2, -1)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def turns(positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Return cosines, then sines, of positions (C,) at frequencies (D / 2,): float32 (C, D)."""
    angles = positions[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), 1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x (..., T, heads, D) by the tables (T, 1, D)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def turned(config: DecoderConfig) -> int:
    """Return how many dimensions of a head turn."""
    return config.rotated_dims or config.head_dim


def padded(frequencies: torch.Tensor, pairs: int) -> torch.Tensor:
    """Return frequencies of so many pairs of dimensions, of which the last ones stand still."""
    return torch.nn.functional.pad(frequencies, (0, pairs - len(frequencies)))


def head_order(head_dim: int, rotated_dims: int) -> torch.Tensor:
    """Return which dimension of a head in a file is each dimension of ours, int64 (head_dim,).

    >>> head_order(8, 4).tolist()
    [0, 1, 4, 5, 2, 3, 6, 7]
    """
    half, turning = head_dim // 2, rotated_dims // 2
    still = torch.arange(rotated_dims, head_dim, device="cpu")
    dims = torch.arange(rotated_dims, device="cpu")
    return torch.cat((dims[:turning], still[: half - turning], dims[turning:], still[half - turning :]))


def check_rope(config: DecoderConfig) -> None:
    """Raise InvalidInput unless every position has finite angles and every frequency is positive; it names the field.

    Attention swallows NaN: such a model would run and write nonsense.

    >>> from bitnet_jit.training.settings import TrainSettings
    >>> check_rope(TrainSettings().decoder())
    """
    theta, scaling, last, width = config.rope_theta, config.rope_scaling, config.context_length - 1, turned(config)
    if config.local is not None and not are_usable(frequencies(width, config.local.rope_theta, None), last):
        raise InvalidInput(
            f"rope_theta of local layers: expected a base whose rotary frequencies are positive, and their angles "
            f"finite, in float32; got {config.local.rope_theta!r}"
        )
    if not are_usable(frequencies(width, theta, None), last):
        raise InvalidInput(
            f"rope_theta: expected a base whose rotary frequencies theta^(-2i / {width}) are positive, and "
            f"their angles up to position {last} finite, in float32; got {theta!r}"
        )
    if scaling is None:
        return
    if isinstance(scaling, DividedScaling) and len(scaling.divisors) != width // 2:
        raise InvalidInput(
            f"rope_scaling: expected {width // 2} divisors, one per pair of a head's dimensions, got "
            f"{len(scaling.divisors)}"
        )
    if not (math.isfinite(scaling.magnitude) and are_usable(frequencies(width, theta, scaling), last)):
        raise InvalidInput(
            "rope_scaling: expected factors that keep the rotary frequencies positive, and their angles up to position "
            f"{last} finite, in float32; got {repr(scaling)[:MAX_SHOWN]}"
        )


def are_usable(frequencies: torch.Tensor, last: int) -> bool:
    """Return whether all frequencies are positive and their angles at position `last` finite; NaN is neither."""
    return bool((frequencies > 0).all()) and bool((frequencies * float(max(1, last))).isfinite().all())


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> torch.Tensor:
    """Compute the radians per position of each pair of dimensions, float32 (head_dim / 2,).

    >>> frequencies(4, 100.0, None)
    tensor([1.0000, 0.1000])
    """
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    return plain if scaling is None else scaling.scaled(plain, theta)
