"""Tensors as memory: the strides of what a call allocates, the distance of rows, and the refusal of what has none."""

from itertools import pairwise
from math import prod

import torch

from bitnet_jit.errors import InvalidInput

NO_MEMORY = "a tensor has no memory: its data_ptr() is 0; its storage has been freed, or torch never made any"


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor of that shape.

    >>> strides((2, 3, 4)), strides((2, 0, 4))
    ((12, 4, 1), (4, 4, 1))
    """
    return tuple(prod(max(size, 1) for size in shape[place + 1 :]) for place in range(len(shape)))


def check_memory(*tensors: torch.Tensor | None) -> None:
    """Raise InvalidInput where a tensor with elements has no memory, which torch's own operations would read."""
    if not all(tensor is None or not tensor.numel() or tensor.data_ptr() for tensor in tensors):
        raise InvalidInput(NO_MEMORY)


def row_distance(a: torch.Tensor) -> int:
    """Return the distance of the rows of a (..., K) in elements; 0 where there is no single one.

    >>> [row_distance(part) for part in (torch.empty(2, 3, 8)[..., :4], torch.empty(2, 3, 8)[:, :2])]
    [8, 0]
    """
    if a.is_contiguous():
        return a.shape[-1]
    if a.stride(-1) != 1:
        return 0
    distances = [(size, stride) for size, stride in zip(a.shape[:-1], a.stride()[:-1], strict=True) if size > 1]
    for (_, outer), (size, inner) in pairwise(distances):
        if outer != size * inner:
            return 0
    return distances[-1][1]
