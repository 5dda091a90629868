"""The rows of q, k and v as attention computes them, where they are not as files have them: Qwen3.5's.

Its q has, head by head, the rows of queries and then those of the output's gate: all gates go behind v. Where only the
first dimensions of a head turn, those of queries and keys go to where the halves of a head begin (`models/rope.py`).
"""

import torch

from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.rope import head_order


def attention_rows(config: DecoderConfig) -> torch.Tensor | None:
    """Return which row of q, k and v, one below the other, is each of ours; None where they are the same, int64 (N,).

    >>> from dataclasses import replace
    >>> from bitnet_jit.training.settings import TrainSettings
    >>> config = replace(TrainSettings().decoder(), num_heads=2, num_kv_heads=1, head_dim=2, output_gate=True)
    >>> attention_rows(config).tolist()
    [0, 1, 4, 5, 8, 9, 10, 11, 2, 3, 6, 7]
    """
    width, heads, kv_heads = config.head_dim, config.num_heads, config.num_kv_heads
    if not config.output_gate and not config.rotated_dims:
        return None
    order = head_order(width, config.rotated_dims) if config.rotated_dims else torch.arange(width, device="cpu")
    stride = width * (2 if config.output_gate else 1)
    first = torch.arange(heads, device="cpu")[:, None] * stride
    keys = heads * stride + torch.arange(kv_heads, device="cpu")[:, None] * width
    values = heads * stride + config.kv_features + torch.arange(config.kv_features, device="cpu")
    gates = first + width + torch.arange(width, device="cpu") if config.output_gate else first[:0]
    return torch.cat([part.flatten() for part in (first + order, keys + order, values, gates)])
