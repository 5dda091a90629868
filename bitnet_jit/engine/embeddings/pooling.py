"""`Pool`: the mean of hidden states over the tokens of a text, the same bits however the text is cut into chunks.

    embedding = m / |m|,  m = mean over tokens t of h_t        h_t: the last block's output, normalized as for the head

A sum of floats depends on its order, so states are summed as integers in units of 2^-24.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bitnet_jit.engine.text.request import Request

UNITS = 2.0**24  # per 1
LARGEST = 2.0**24  # of a state; 2^14 of them sum up to 2^62 units


@dataclass
class Pool:
    """The sum over one text.

    Attributes:
        total: (hidden_size,) int64, in units; None before the first token.
        count: tokens that are in it.
        is_sound: whether all states were numbers of a usual size; a tensor, so that nothing waits for a GPU.
        vector: the mean, of length 1, (hidden_size,) float32 on the CPU; zeros stay zeros. None until it is read.
    """

    total: torch.Tensor | None = None
    count: int = 0
    is_sound: torch.Tensor | None = None
    vector: torch.Tensor | None = None

    def add(self, hidden: torch.Tensor, start: int) -> None:
        """Add the states of the tokens start to start + n - 1, (n, hidden_size); not again those that it has.

        >>> pool = Pool()
        >>> pool.add(torch.tensor([[0.0, 3.0], [8.0, 3.0]]), 0)
        >>> pool.add(torch.tensor([[8.0, 3.0]]), 1)
        >>> pool.read(), pool.vector
        ('', tensor([0.8000, 0.6000]))
        """
        rows = hidden[max(0, self.count - start) :].double()
        if not len(rows):
            return
        total = (rows * UNITS).round_().to(torch.int64).sum(0)
        is_sound = (rows.abs() <= LARGEST).all()
        if self.total is not None and self.is_sound is not None:
            total, is_sound = total + self.total, is_sound & self.is_sound
        self.total, self.is_sound, self.count = total, is_sound, self.count + len(rows)

    def read(self) -> str:
        """Make the vector, once all tokens are in the sum; return why there is none, in words, or ""."""
        assert self.total is not None
        if not bool(self.is_sound):
            return "the model computed hidden states that are NaN or infinite: its weights are damaged"
        mean = self.total.cpu().double() / self.count
        self.vector = (mean / mean.norm().clamp_(min=1.0)).float()
        return ""

    def clear(self) -> None:
        """Forget all tokens: they are computed anew, maybe on another device."""
        self.total, self.count, self.is_sound = None, 0, None


def pool_hidden(wanted: Mapping["Request", int], hidden: torch.Tensor) -> torch.Tensor:
    """Add the hidden states of a step to the pools of its requests; return those of which logits are wanted.

    Args:
        wanted: how many rows each request has, in order, whose chunks have been computed.
        hidden: (rows, hidden_size).
    """
    kept: list[int] = []
    first = 0
    for request, number in wanted.items():
        if request.pool is None:
            kept += range(first, first + number)
        else:
            request.pool.add(hidden[first : first + number], request.sequence.length - number)
        first += number
    return hidden[kept]
