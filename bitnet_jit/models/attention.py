"""Causal attention with grouped heads, over cached keys and values or over a window that is seen as a whole."""

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

Tables = tuple[torch.Tensor, torch.Tensor]  # cosines and sines of T positions, each (T, 1, D)
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries (B, T, heads, D), keys and values (B, T, kv_heads, D)


class KVStore(Protocol):
    """Keys and values of earlier tokens, such as a `KVCache`."""

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values (B, T, kv_heads, D) of a layer; return all, each (B, kv_heads, L, D)."""
        ...


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; a subclass holds the layers around it."""

    def forward(self, x: torch.Tensor, tables: Tables, cache: KVStore | None = None, layer: int = 0) -> torch.Tensor:
        """Mix the tokens of x (B, T, hidden) -> (B, T, hidden).

        Args:
            x: the input.
            tables: the rotary ones of these T positions.
            cache: keys and values of earlier tokens; None where the T tokens are all that there are.
            layer: the place of the block among the cache's.
        """
        query, keys, values = self.rotated_heads(x, tables)
        if cache is None:
            keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        else:
            keys, values = cache.put(layer, keys, values)
        return self.project_out(attend(query, keys, values))

    def rotated_heads(self, x: torch.Tensor, tables: Tables) -> Heads:
        """Project x (B, T, hidden) to queries, keys and values of one dtype, and rotate queries and keys."""
        raise NotImplementedError

    def project_out(self, y: torch.Tensor) -> torch.Tensor:
        """Project the result of the heads, y (B, T, num_heads * D) -> (B, T, hidden)."""
        raise NotImplementedError


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Compute softmax attention of the last T of L tokens, each over itself and all before it.

    Args:
        query: (B, T, heads, D); head h reads the keys of head h // (heads / kv_heads).
        keys: (B, kv_heads, L, D).
        values: (B, kv_heads, L, D).

    Returns:
        (B, T, heads * D).
    """
    batch, tokens, heads, head_dim = query.shape
    kv_heads, length = keys.shape[1:3]
    if tokens == 1:
        # the heads of a group are as many queries to the same keys, and one token may look at everything
        grouped = query.reshape(batch, kv_heads, heads // kv_heads, head_dim)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(batch, 1, heads * head_dim)
    mask = None if tokens == length else causal_mask(tokens, length, query.device)
    y = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.repeat_interleave(heads // kv_heads, 1),
        values.repeat_interleave(heads // kv_heads, 1),
        attn_mask=mask,
        is_causal=mask is None,
    )
    return y.transpose(1, 2).reshape(batch, tokens, heads * head_dim)


def causal_mask(tokens: int, length: int, device: torch.device) -> torch.Tensor:
    """Return bool (tokens, length), true where the last `tokens` of `length` positions may look.

    >>> causal_mask(2, 3, torch.device("cpu")).tolist()
    [[True, True, False], [True, True, True]]
    """
    return torch.ones(tokens, length, dtype=torch.bool, device=device).tril(length - tokens)
