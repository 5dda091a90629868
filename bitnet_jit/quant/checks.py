"""Checks of a quantized weight's scales: each raises InvalidInput that names the argument and its value."""

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.problem import SCALES


def check_grouping(scale: str, group_size: int) -> int:
    """Return the size of a group as a Python int.

    Raises:
        InvalidInput: `scale` is unknown, or group_size does not go with it.

    >>> check_grouping("row", 64)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: group_size: at least 1 with scale='group' and 0 otherwise, got 64 with 'row'
    """
    if scale not in SCALES:
        raise InvalidInput(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")
    size = as_whole(group_size)
    if size is None or size < 0 or (size > 0) != (scale == "group"):
        raise InvalidInput(
            f"group_size: at least 1 with scale='group' and 0 otherwise, got {show(group_size)} with {scale!r}"
        )
    return size


def check_scale(w_scale: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise InvalidInput unless w_scale is float32 of that shape and finite, and not 0 where it is one number.

    Values on meta are not read.
    """
    if w_scale.dtype != torch.float32 or tuple(w_scale.shape) != shape:
        raise InvalidInput(f"w_scale: expected float32 {shape}, got {w_scale.dtype} {tuple(w_scale.shape)}")
    if w_scale.is_meta:
        return
    if not torch.isfinite(w_scale).all():
        worst = w_scale.flatten()[~torch.isfinite(w_scale).flatten()][0]
        raise InvalidInput(f"w_scale: expected finite values, found {worst.item()}")
    if not shape and w_scale == 0:
        raise InvalidInput("w_scale: a scale of the whole tensor must not be 0, got 0.0")
