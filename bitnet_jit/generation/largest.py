"""The largest logit of each row: by NumPy's vector instructions on the CPU, elsewhere by the op `greedy`."""

import math

import torch

from bitnet_jit.ops.greedy import Largest, largest_of
from bitnet_jit.problem import NO_TOKEN


def largest(
    logits: torch.Tensor,  # (n, V) float32
) -> Largest:
    """Return the largest logit of each row and its first place; a NaN is larger than any number."""
    if not logits.is_cpu:
        return largest_of(logits)
    tokens = torch.from_numpy(logits.detach().numpy().argmax(-1))
    values = logits.gather(-1, tokens[:, None])[:, 0]
    return Largest(values, tokens, torch.where(is_finite(values), tokens, NO_TOKEN))


def is_finite(values: torch.Tensor) -> torch.Tensor:
    """Return whether numbers are neither NaN nor infinite, with two kernels where torch.isfinite takes four."""
    return values.abs() < math.inf
