"""Keys and values in pages, bound to the tokens of one step: where each token lies, and what it may look at."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.ops.attention import paged_attention


@dataclass(frozen=True)
class Places:
    """The places of a step's T tokens, which belong to R sequences, as int32 tensors.

    Attributes:
        positions: (T,) of each token in its sequence; -1 for a token that only fills up the step.
        starts: (R + 1,): tokens starts[r] to starts[r + 1] - 1 are of sequence r, at consecutive positions.
        tables: (R, M): the pages of a sequence, in order.
    """

    positions: torch.Tensor
    starts: torch.Tensor
    tables: torch.Tensor


@dataclass(frozen=True)
class PagedStore:
    """A `KVStore` of pages.

    Attributes:
        keys: of each layer (pages, kv_heads, D, PAGE).
        values: of each layer (pages, kv_heads, PAGE, D).
        rotary: cosines and sines of positions, float32 (C, D).
        places: of the step's tokens.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    rotary: torch.Tensor
    places: Places

    def attend(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Rotate heads, keep keys and values, and attend: qkv (T, (H + 2 * kv_heads) * D) -> (T, H * D)."""
        at = self.places
        y: torch.Tensor = paged_attention(
            qkv, self.keys[layer], self.values[layer], self.rotary, at.positions, at.starts, at.tables
        )
        return y
