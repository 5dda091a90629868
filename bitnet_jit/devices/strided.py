"""Tensors as memory: the strides of what a call allocates, and the refusal of what has none."""

from math import prod

NO_MEMORY = "a tensor has no memory: its data_ptr() is 0; its storage has been freed, or torch never made any"


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor of that shape.

    >>> strides((2, 3, 4)), strides((2, 0, 4))
    ((12, 4, 1), (4, 4, 1))
    """
    return tuple(prod(max(size, 1) for size in shape[place + 1 :]) for place in range(len(shape)))
