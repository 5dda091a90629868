"""`greedy`: the token with the largest logit of each row, written to where the next step of a decoder reads it.

NaN is larger than any number, and of equal logits the first one is taken, as torch's argmax does. A row whose largest
logit is NaN or infinite has a token, too, but the code NO_TOKEN: whoever waits for codes learns of it, and a step that
has begun by then looks up a token that exists.
"""

from typing import NamedTuple

import torch

from bitnet_jit.kernels.operands import Operands
from bitnet_jit.ops.arguments import Tensor
from bitnet_jit.ops.calls import define_by_kernels
from bitnet_jit.ops.spec import OpSpec, Output, always
from bitnet_jit.ops.vocabulary import OUT_ROWS, PER_ROW


def example_tokens(operands: Operands) -> torch.Tensor:
    """Return memory for tokens."""
    return torch.zeros(operands.leading, dtype=torch.int64, device="cpu")


def example_positions(operands: Operands) -> torch.Tensor:
    """Return positions, one of which is of a row that is not used."""
    positions = torch.arange(-1, operands.rows - 1, dtype=torch.int32, device="cpu")
    return positions.reshape(operands.leading)


GREEDY = define_by_kernels(
    OpSpec(
        "greedy",
        (
            Tensor("logits", (torch.float32,), OUT_ROWS),
            Tensor("next_tokens", (torch.int64,), PER_ROW, written="a", synthetic=example_tokens),
            Tensor(
                "next_positions",
                (torch.int32,),
                PER_ROW,
                optional=True,
                field="bias",
                written="b",
                synthetic=example_positions,
            ),
        ),
        (Output("largest", PER_ROW, torch.float32), Output("code", PER_ROW, torch.int64)),
        exact=always,
    )
)
greedy = GREEDY.eager


class Largest(NamedTuple):
    """The largest logits of B rows.

    Attributes:
        values: (B,) float32, those logits.
        tokens: (B,) int64, where they stand first.
        codes: (B,) int64, the tokens, and NO_TOKEN where a largest logit is NaN or infinite.
    """

    values: torch.Tensor
    tokens: torch.Tensor
    codes: torch.Tensor

    def first(self, rows: int) -> "Largest":
        """Return those of the first rows."""
        return Largest(*(part[:rows] for part in self))


def largest_of(logits: torch.Tensor) -> Largest:
    """Find the largest logit of each row of logits (B, V) float32.

    >>> largest_of(torch.tensor([[0.0, 2.0, 2.0], [torch.inf, 0.0, torch.nan]])).codes
    tensor([ 1, -1])
    """
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    values, codes = greedy(logits, tokens, None)
    return Largest(values, tokens, codes)
