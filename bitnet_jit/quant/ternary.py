"""Split of floats that are ternary already into codes and scales: w = w_q * w_scale, with equality.

Nothing is rounded, unlike in `quantize_weight`: a weight that is not exactly ternary has no such codes.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F


class TernarySplit(NamedTuple):
    """Rows of a weight as codes and scales.

    Attributes:
        w_q: (N, K) int8 in {-1, 0, 1}; means nothing in groups that are not exact.
        w_scale: (N, ceil(K / group_size)) float32, the largest magnitude of a group: 0 in a group of zeros.
        exact: (N, ceil(K / group_size)) bool: all numbers of a group are zero or have that magnitude, which is finite.
    """

    w_q: torch.Tensor
    w_scale: torch.Tensor
    exact: torch.Tensor


def split_ternary(w: torch.Tensor, group_size: int) -> TernarySplit:
    """Split rows w (N, K) of floats by groups of inputs, the last of which may be short.

    >>> w_q, w_scale, exact = split_ternary(torch.tensor([[0.5, -0.5, 0.0, 2.0], [1.0, -1.0, 0.0, 0.0]]), 2)
    >>> w_q.tolist(), w_scale.tolist(), bool(exact.all())
    ([[1, -1, 0, 1], [1, -1, 0, 0]], [[0.5, 2.0], [1.0, 0.0]], True)
    """
    magnitudes = F.pad(w.detach().float().abs(), (0, -w.shape[1] % group_size)).unflatten(1, (-1, group_size))
    w_scale = magnitudes.amax(2)
    of_scale = (magnitudes == 0) | (magnitudes == w_scale[:, :, None])
    return TernarySplit(w.detach().sign().to(torch.int8), w_scale, of_scale.all(2) & w_scale.isfinite())


def coarsest_scale(w_scale: torch.Tensor) -> torch.Tensor:
    """Return scales of groups (N, groups) as () where all are the same, as (N,) where those of each row are.

    A scale of 0 stands for any other, as its group has no code but 0.

    >>> coarsest_scale(torch.tensor([[2.0, 0.0], [2.0, 2.0]])), coarsest_scale(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    (tensor(2.), tensor([2., 1.]))
    """
    of_rows = w_scale.amax(1)
    if bool(((w_scale != 0) & (w_scale != of_rows[:, None])).any()):
        return w_scale
    largest = of_rows.amax()
    if bool(((of_rows != 0) & (of_rows != largest)).any()):
        return of_rows
    return torch.where(largest == 0, torch.ones_like(largest), largest)
