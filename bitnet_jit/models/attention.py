"""Causal attention with grouped heads over cached keys and values."""

import torch
from torch.nn import functional as F


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Softmax attention of the last T of L tokens, each over itself and all before it.

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
    """bool (tokens, length), true where the last `tokens` of `length` positions may look.

    >>> causal_mask(2, 3, torch.device("cpu")).tolist()
    [[True, True, False], [True, True, True]]
    """
    return torch.ones(tokens, length, dtype=torch.bool, device=device).tril(length - tokens)
