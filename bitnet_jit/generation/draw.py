"""A draw of one token per row after temperature, top-k, top-p and min-p, the same bits in every batch.

Sums of floats depend on their order, and torch's order on the shape of the batch. So probabilities become integers,

    w = floor(2^39 exp((logit - largest) / temperature))    at most 2^39; a sum over fewer than 2^20 is below 2^59

whose sums are exact in any order. With 64 random bits u in [0, 1) the token at which the running sum first exceeds
floor(u sum(w)) is drawn. Tokens below 2^-39 of the likeliest are never drawn.

Rows whose options name the likeliest tokens (top-k, top-p) are drawn from those in order; all other rows in the order
of ids, without a sort. Which way a row goes depends on its options alone.
"""

from dataclasses import dataclass

import torch

from bitnet_jit.generation.order import likeliest

ONE = 2**39  # the weight of the likeliest token
MAX_VOCABULARY = 2**20
FEW, FEW_STEP = 512, 8  # candidates of top-p on the CPU: how many are tried first, and how many times more then
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
    if limits.candidates is None:
        return drawn_place(kept_weights(weights(logits, top, limits.temperature), limits), words)
    if logits.is_cpu and limits.candidates == logits.shape[-1] and limits.top_k is None and limits.top_p is not None:
        total = weights(logits, top, limits.temperature).sum(-1)
        values, ids = nucleus(logits, top, limits.temperature, share_of(total, limits.top_p))
    else:
        total = None
        values, ids = likeliest(logits, limits.candidates)
    place = drawn_place(kept_weights(weights(values, top, limits.temperature), limits, total), words)
    return ids.gather(-1, place[:, None])[:, 0]


def nucleus(
    logits: torch.Tensor,  # (n, V) float32
    top: torch.Tensor,  # (n,) float32
    temperature: torch.Tensor,  # (n, 1) float32
    enough: torch.Tensor,  # (n,) int64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest tokens and their ids as `likeliest`, at least as many as reach the weight `enough`.

    The host looks at the weights to know how many, which costs nothing on the CPU and saves a sort of all tokens.
    """
    number = FEW
    while number <= logits.shape[-1] // FEW_STEP:
        values, ids = likeliest(logits, number)
        if bool((weights(values, top, temperature).sum(-1) >= enough).all()):
            return values, ids
        number *= FEW_STEP
    return likeliest(logits, logits.shape[-1])


def weights(
    logits: torch.Tensor,  # (n, C) float32
    top: torch.Tensor,  # (n,) float32
    temperature: torch.Tensor | None = None,  # (n, 1) float32
) -> torch.Tensor:
    """Return probabilities as integers, (n, C) int64: ONE for the logit `top`."""
    x = logits - top[:, None]
    if temperature is not None:
        x /= temperature
    return x.exp_().mul_(ONE).to(torch.int64)


def kept_weights(
    w: torch.Tensor,  # (n, C) int64
    limits: Limits,
    total: torch.Tensor | None = None,  # (n,) int64, of all tokens; None: the sum of w
) -> torch.Tensor:
    """Return the weights (n, C) with 0 for tokens that top-k, top-p and min-p rule out."""
    if limits.top_k is not None:
        w = w * (torch.arange(w.shape[-1], dtype=torch.int64, device=w.device) < limits.top_k)
    if limits.top_p is not None:
        sums = w.cumsum(-1)
        enough = share_of(sums[:, -1] if total is None else total, limits.top_p).clamp_(min=1)
        w = w * (sums - w < enough[:, None])
    if limits.min_p is not None:
        w = w * (w >= limits.min_p)
    return w


def drawn_place(
    w: torch.Tensor,  # (n, C) int64
    words: torch.Tensor,  # (n, 2) int64
) -> torch.Tensor:
    """Return the place at which the running sum of each row exceeds its random share of the whole, (n,) int64."""
    sums = w.cumsum(-1)
    place = torch.searchsorted(sums, share_of(sums[:, -1], words)[:, None], right=True)
    return place[:, 0].clamp_(max=w.shape[-1] - 1)


def share_of(
    total: torch.Tensor,  # (n,) int64, below 2^59
    words: torch.Tensor,  # (n, 2) int64: high and low 32 bits of a fraction of 2^64
) -> torch.Tensor:
    """Return floor(total * fraction), exactly, (n,) int64."""
    high, low = words.unbind(-1)
    upper, lower = total >> SPLIT, total & (2**SPLIT - 1)
    carry = (low * upper + (low * lower >> SPLIT)) >> (32 - SPLIT)
    share: torch.Tensor = (high * upper + (high * lower + carry >> SPLIT)) >> (32 - SPLIT)
    return share


def share_words(share: float) -> tuple[int, int]:
    """Return a number from 0 to 1 as high and low 32 bits of a fraction of 2^64; 1 is (2^32, 0).

    >>> share_words(0.5), share_words(1.0)
    ((2147483648, 0), (4294967296, 0))
    """
    return divmod(int(share * 2**64), 2**32)
