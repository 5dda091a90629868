"""Log-probabilities of tokens, of the model's logits as they are, the same bits in every batch.

    log p(token) = (logit - largest) - log(sum of exp(logit - largest))

The sum is one of integers, as in `draw.py`, since a sum of floats depends on the shape of the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.generation.draw import ONE, weights
from bitnet_jit.generation.order import likeliest
from bitnet_jit.generation.penalties import to_device

Place = slice | torch.Tensor  # of rows in a batch


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities of a batch. B: rows, N: the largest number that a row asked for.

    Attributes:
        chosen: (B,) float32, of the chosen tokens; NaN where a row asked for none.
        token_ids: (B, N) int64, the likeliest tokens in order; -1 behind the number that a row asked for.
        values: (B, N) float32, their log-probabilities; NaN behind them.
    """

    chosen: torch.Tensor
    token_ids: torch.Tensor
    values: torch.Tensor


def empty(rows: int, number: int, device: torch.device) -> Logprobs:
    """Return log-probabilities of which none is known yet."""
    return Logprobs(
        torch.full((rows,), math.nan, dtype=torch.float32, device=device),
        torch.full((rows, number), -1, dtype=torch.int64, device=device),
        torch.full((rows, number), math.nan, dtype=torch.float32, device=device),
    )


@dataclass(frozen=True)
class Wanted:
    """Rows that ask for log-probabilities.

    Attributes:
        place: the rows.
        number: the largest number that one asks for.
        numbers: (n, 1) int64, what each asks for.
    """

    place: Place
    number: int
    numbers: torch.Tensor

    def fill(
        self,
        result: Logprobs,
        logits: torch.Tensor,  # (B, V) float32
        largest: torch.Tensor,  # (B,) float32
        tokens: torch.Tensor,  # (B,) int64, the chosen ones
    ) -> None:
        """Write the log-probabilities of the rows into the result."""
        logits, top, tokens = logits[self.place], largest[self.place], tokens[self.place]
        total = (weights(logits, top).sum(-1, keepdim=True).to(torch.float32) / ONE).log_()
        top = top[:, None]
        result.chosen[self.place] = (logits.gather(-1, tokens[:, None]) - top - total)[:, 0]
        if self.number:
            values, ids = likeliest(logits, self.number)
            beyond = torch.arange(self.number, dtype=torch.int64, device=logits.device) >= self.numbers
            result.token_ids[self.place, : self.number] = ids.masked_fill(beyond, -1)
            result.values[self.place, : self.number] = (values - top - total).masked_fill(beyond, math.nan)


def wanted(place: Place, numbers: Sequence[int], device: torch.device) -> Wanted:
    """Return what rows ask for, by the number of each."""
    return Wanted(place, max(numbers), to_device(numbers, torch.int64, device)[:, None])
