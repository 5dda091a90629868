"""Numbers that are stored by another function than they are read by, so that what is read is what there was."""

from collections.abc import Callable

import torch


def nearest(wanted: torch.Tensor, read: Callable[[torch.Tensor], torch.Tensor], guess: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers that are read as wanted, or come nearest to it: of each guess, or a neighbour of it.

    Args:
        wanted: float32, of any shape.
        read: what is stored -> what a reader makes of it, element by element.
        guess: float32, as many as are wanted.

    >>> nearest(torch.tensor([2.0, 6.0]), lambda stored: stored / 2, torch.tensor([4.0, 12.000001])).tolist()
    [4.0, 12.0]
    """
    best = guess
    for end in (float("inf"), -float("inf")):
        near = torch.nextafter(guess, torch.full_like(guess, end))
        is_better = (read(near) - wanted).abs() < (read(best) - wanted).abs()
        best = torch.where(is_better, near, best)
    return best
