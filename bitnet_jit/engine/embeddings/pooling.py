"""The hidden states of a step: some belong to texts that are embedded, of the others logits are wanted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bitnet_jit.engine.text.request import Request


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
