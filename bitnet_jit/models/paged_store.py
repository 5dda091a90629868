"""Keys and values in pages, bound to the tokens of one step: where each token lies, and what it may look at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.devices.memory import allocating
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.ops.attention import paged_attention
from bitnet_jit.problem import PAGE


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


def aligned(count: int) -> int:
    """Return the next number of int32 at or above `count` that fills 16 bytes, as kernels read index tensors."""
    return -(-count // 4) * 4


def empty_pages(
    words: str, config: DecoderConfig, pages: int, dtype: torch.dtype, device: torch.device
) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """Allocate pages of keys (pages, kv_heads, D, PAGE) and of values (pages, kv_heads, PAGE, D) for each layer.

    Args:
        words: what is asked for, in an error.
        config: the decoder's.
        pages: number of pages.
        dtype: of keys and values.
        device: where they live.

    Raises:
        InvalidInput: memory does not suffice.
    """
    layers, heads, width = config.num_layers, config.num_kv_heads, config.head_dim
    num_bytes = 2 * layers * math.prod((pages, heads, width, PAGE)) * dtype.itemsize
    if torch.compiler.is_compiling():  # which asks no system for its memory
        return unbound(layers, pages, heads, width, dtype, device)
    with allocating(words, num_bytes, device.type):
        return unbound(layers, pages, heads, width, dtype, device)


def unbound(
    layers: int, pages: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """Allocate the keys and the values of all layers, one tensor per layer and kind, not initialized."""
    keys = [torch.empty((pages, heads, width, PAGE), dtype=dtype, device=device) for _ in range(layers)]
    values = [torch.empty((pages, heads, PAGE, width), dtype=dtype, device=device) for _ in range(layers)]
    return keys, values
