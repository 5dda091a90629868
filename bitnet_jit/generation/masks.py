"""Masks of tokens that may be chosen, a bit per token, applied to logits on their device."""

import math

import numpy as np
import torch

BITS = 32  # per word


def mask_words(vocab_size: int) -> int:
    """Return the number of words of one mask.

    >>> mask_words(32), mask_words(33)
    (1, 2)
    """
    return -(-vocab_size // BITS)


def apply_masks(
    logits: torch.Tensor,  # (n, V) float32
    masks: torch.Tensor,  # (n, mask_words(V)) int32, the bit of the lowest id first
) -> None:
    """Set logits to -inf, in place, where the bit of a token is 0.

    >>> logits = torch.zeros(1, 3)
    >>> apply_masks(logits, torch.tensor([[0b101]], dtype=torch.int32))
    >>> logits
    tensor([[0., -inf, 0.]])
    """
    if logits.is_cpu:  # a fifth of the time
        octets = (~masks).contiguous().numpy().view(np.uint8)
        banned = torch.from_numpy(np.unpackbits(octets, axis=1, bitorder="little").view(np.bool_))
    else:
        places = torch.arange(BITS, dtype=torch.int32, device=logits.device)
        banned = masks[:, :, None].bitwise_right_shift(places).bitwise_and_(1).flatten(1) == 0
    logits.masked_fill_(banned[:, : logits.shape[1]], -math.inf)
