"""Causal attention with grouped heads: over a window that is seen as a whole, or by a store of earlier tokens."""

from typing import Protocol

import torch
from torch.nn import functional as F


class KVStore(Protocol):
    """Keys, values and states of earlier tokens, bound to the tokens of one step, such as a `PagedStore`."""

    def attend(self, layer: int, qkv: torch.Tensor, is_local: bool = False) -> torch.Tensor:
        """Rotate the heads of a step's tokens, keep their keys and values, and attend.

        Args:
            layer: the place of the block among those that have attention.
            qkv: (T, (num_heads + 2 * num_kv_heads) * D): queries, keys and values of all heads, side by side.
            is_local: whether they turn by the rotary frequencies of local layers.

        Returns:
            (T, num_heads * D).
        """
        ...

    def recur(self, layer: int, mixed: torch.Tensor, gates: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """Run a gated DeltaNet over a step's tokens, from and to the states of their sequences.

        Args:
            layer: the place of the block among those that have a gated DeltaNet.
            mixed: (T, C): queries, keys and values of all heads, side by side.
            gates: (T, 2 * value_heads) float32: of writing, then of forgetting.
            weights: conv_weight, decay and dt_bias of `ops/delta_net.py`.

        Returns:
            (T, value_features).
        """
        ...


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Compute causal softmax attention of T tokens, each over itself and all before it.

    Args:
        query: (B, T, heads, D); head h reads the keys of head h // (heads / kv_heads).
        keys: (B, T, kv_heads, D).
        values: (B, T, kv_heads, D).

    Returns:
        (B, T, heads * D).
    """
    group = query.shape[2] // keys.shape[2]
    y = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.transpose(1, 2).repeat_interleave(group, 1),
        values.transpose(1, 2).repeat_interleave(group, 1),
        is_causal=True,
    )
    return y.transpose(1, 2).flatten(2)
