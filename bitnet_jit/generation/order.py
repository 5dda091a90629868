"""The largest logits of each row, in the order by logit; of equal ones the token with the lower id comes first.

A float32 becomes an integer of the same order, which with the id behind it makes one int64 key per token. No two keys
are alike, so that any way of sorting gives the same order. On the CPU NumPy searches, selects and sorts with vector
instructions: 128,256 keys take 0.4 ms to sort, 7 ms in torch.
"""

import numpy as np
import torch

MAGNITUDE = 0x7FFFFFFF
ID_BITS = 32


def likeliest(
    logits: torch.Tensor,  # (n, V) float32
    number: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest logits of each row and their ids, (n, number) each, in order; any where one is NaN."""
    size = logits.shape[-1]
    ids = torch.arange(size, dtype=torch.int64, device=logits.device).expand(logits.shape)
    few = number <= size // 8
    if logits.is_cpu and few:
        ids = torch.stack([select(row.numpy(), number) for row in logits.detach()])
        logits = logits.gather(-1, ids)
    keys = sort_keys(logits, ids)
    if logits.is_cpu:
        keys.numpy().sort(axis=-1)
        keys = keys[:, :number]
    else:
        keys = first_keys(keys, number, few)
    return flip_negatives((~(keys >> ID_BITS)).to(torch.int32)).view(torch.float32), keys & (2**ID_BITS - 1)


def select(
    row: "np.ndarray",  # (V,) float32
    number: int,
) -> torch.Tensor:
    """Return the ids of the `number` largest logits of a row in any order, int64; any ids where one is NaN."""
    last = np.partition(row, len(row) - number)[len(row) - number]
    ids = np.flatnonzero(row >= last)
    if len(ids) > number:  # several equal the last one: those with the lowest ids stay
        tied = row[ids] == last
        ids = np.concatenate((ids[~tied], ids[tied]))[:number]
    return torch.from_numpy(ids if len(ids) == number else np.arange(number))


def first_keys(keys: torch.Tensor, number: int, few: bool) -> torch.Tensor:
    """Return the `number` smallest keys of each row, ascending, (n, number), as other devices find them."""
    return keys.topk(number, largest=False).values if few else keys.sort(-1).values[:, :number]


def sort_keys(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return int64 keys (n, C), ascending as logits (n, C) descend and, among equal ones, ids (n, C) ascend."""
    bits = flip_negatives((logits + 0.0).view(torch.int32))  # -0.0 + 0.0 is 0.0
    return ((~bits).to(torch.int64) << ID_BITS).bitwise_or_(ids)


def flip_negatives(bits: torch.Tensor) -> torch.Tensor:
    """Turn the bits of float32 into int32 of the same order, and back."""
    return bits ^ ((bits >> 31) & MAGNITUDE)
