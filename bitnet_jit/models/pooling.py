"""`Pool`: hidden states of the tokens of a text -> one vector, the same bits however the text is cut into chunks.

    embedding = m / |m|,  m = mean over tokens t of h_t, or h of the first ("cls") or the last token
                          h_t: the last block's output, normalized as for the head

A sum of floats depends on its order, so states are summed as integers in units of 2^-24.
"""

from dataclasses import dataclass

import torch

from bitnet_jit.arguments import show
from bitnet_jit.errors import InvalidInput

MEAN, CLS, LAST = "mean", "cls", "last"
POOLINGS = (MEAN, CLS, LAST)
UNITS = 2.0**24  # per 1
LARGEST = 2.0**24  # of a state; 2^14 of them sum up to 2^62 units


def check_pooling(pooling: str | None, of_model: str | None) -> str:
    """Return the pooling that is asked for, or that of a model where None is.

    Raises:
        InvalidInput: it is none of POOLINGS, or neither says any.
    """
    if pooling is None and of_model is None:
        raise InvalidInput(
            f"pooling: this model's files do not say how it pools; pass one of {', '.join(POOLINGS)} (a model that was "
            "trained to embed was trained for one of them)"
        )
    chosen = of_model if pooling is None else pooling
    if chosen not in POOLINGS:
        raise InvalidInput(f"pooling: expected one of {', '.join(POOLINGS)}, got {show(pooling)}")
    return chosen


@dataclass
class Pool:
    """The states of one text, as far as it has come.

    Attributes:
        pooling: which states count: one of POOLINGS.
        total: their sum (hidden_size,) int64, in units; None before the first token.
        count: tokens that have come.
        is_sound: whether all states were numbers of a usual size; a tensor, so that nothing waits for a GPU.
        vector: the mean, of length 1, (hidden_size,) float32 on the CPU; zeros stay zeros. None until it is read.
    """

    pooling: str = MEAN
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
        total = (self._counted(rows) * UNITS).round_().to(torch.int64).sum(0)
        is_sound = (rows.abs() <= LARGEST).all()
        if self.total is not None and self.is_sound is not None:
            total = total if self.pooling == LAST else total + self.total
            is_sound = is_sound & self.is_sound
        self.total, self.is_sound, self.count = total, is_sound, self.count + len(rows)

    def _counted(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows that count, of those that come behind `count` others."""
        if self.pooling == LAST:
            return rows[-1:]
        return rows if self.pooling == MEAN else rows[: 0 if self.count else 1]

    def read(self) -> str:
        """Make the vector, once all tokens have come; return why there is none, in words, or ""."""
        assert self.total is not None
        if not bool(self.is_sound):
            return "the model computed hidden states that are NaN or infinite: its weights are damaged"
        mean = self.total.cpu().double() / (self.count if self.pooling == MEAN else 1)
        self.vector = (mean / mean.norm().clamp_(min=1.0)).float()
        return ""

    def clear(self) -> None:
        """Forget all tokens: they are computed anew, maybe on another device."""
        self.total, self.count, self.is_sound = None, 0, None
