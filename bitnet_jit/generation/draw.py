"""A draw of one token per row after temperature, top-k, top-p and min-p, the same bits in every batch.

Sums of floats depend on their order, and torch's order on the shape of the batch. So probabilities become integers,

    w = floor(2^39 exp((logit - largest) / temperature))    at most 2^39; a sum over fewer than 2^20 is below 2^59

whose sums are exact in any order. With 64 random bits u in [0, 1) the token at which the running sum first exceeds
floor(u sum(w)) is drawn. Tokens below 2^-39 of the likeliest are never drawn.

Rows whose options name the likeliest tokens (top-k, top-p) are drawn from those in order; all other rows in the order of
ids, without a sort. Which way a row goes depends on its options alone.
"""

from dataclasses import dataclass

import torch

from bitnet_jit.generation.order import likeliest

ONE = 2**39  # the weight of the likeliest token
MAX_VOCABULARY = 2**20
SPLIT = 29  # bits: 32-bit words times both halves of a sum of weights fit int64


@dataclass(frozen=True)
class Limits:
    """What n rows are drawn by. A field is None where no row needs it.

    Attributes:
        temperature: (n, 1) float32, above 0.
        candidates: number of likeliest tokens that are drawn from; None: all tokens, in the order of ids.
        top_k: (n, 1) int64, or None; only with candidates.
        top_p: (n, 2) int64, the share as two words of 32 bits, see `share_words`; only with candidates.
        min_p: (n, 1) int64, the smallest weight.
    """

    temperature: torch.Tensor
    candidates: int | None = None
    top_k: torch.Tensor | None = None
    top_p: torch.Tensor | None = None
    min_p: torch.Tensor | None = None


def draw(
    logits: torch.Tensor,  # (n, V) float32
    top: torch.Tensor,  # (n,) float32, the largest of each row
    words: torch.Tensor,  # (n, 2) int64, random bits
    limits: Limits,
) -> torch.Tensor:
    """Return a token for each row, (n,) int64; any token where a row has NaN or no finite logit."""
    ids = None
    if limits.candidates is not None:
        logits, ids = likeliest(logits, limits.candidates)
    w = kept_weights(weights(logits, top[:, None], limits.temperature), limits)
    sums = w.cumsum(-1)
    place = torch.searchsorted(sums, share_of(sums[:, -1], words)[:, None], right=True)
    place = place.clamp_(max=logits.shape[-1] - 1)
    return (place if ids is None else ids.gather(-1, place))[:, 0]


def weights(logits: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor | None = None) -> torch.Tensor:
    """Return probabilities as integers, of the same shape: ONE for the logit `top` (n, 1)."""
    x = logits - top
    if temperature is not None:
        x /= temperature
    return x.exp_().mul_(ONE).to(torch.int64)


def kept_weights(w: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Return the weights (n, C) with 0 for tokens that top-k, top-p and min-p rule out."""
    if limits.top_k is not None:
        w = w * (torch.arange(w.shape[-1], dtype=torch.int64, device=w.device) < limits.top_k)
    if limits.top_p is not None:
        sums = w.cumsum(-1)
        enough = share_of(sums[:, -1], limits.top_p).clamp_(min=1)[:, None]
        w = w * (sums - w < enough)
    if limits.min_p is not None:
        w = w * (w >= limits.min_p)
    return w


def share_of(
    total: torch.Tensor,  # (n,) int64, below 2^59
    words: torch.Tensor,  # (n, 2) int64: high and low 32 bits of a fraction of 2^64
) -> torch.Tensor:
    """Return floor(total * fraction), exactly, (n,) int64."""
    high, low = words.unbind(-1)
    upper, lower = total >> SPLIT, total & (2**SPLIT - 1)
    carry = (low * upper + (low * lower >> SPLIT)) >> (32 - SPLIT)
    return (high * upper + (high * lower + carry >> SPLIT)) >> (32 - SPLIT)


def share_words(share: float) -> tuple[int, int]:
    """Return a number from 0 to 1 as high and low 32 bits of a fraction of 2^64; 1 is (2^32, 0).

    >>> share_words(0.5), share_words(1.0)
    ((2147483648, 0), (4294967296, 0))
    """
    return divmod(int(share * 2**64), 2**32)
