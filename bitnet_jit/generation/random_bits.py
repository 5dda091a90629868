"""Random bits that are a function of a request's seed and a token's position alone: Philox4x32-10.

A counter-based generator (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC11) has no state: its output is
a function of a counter and a key. With the seed as key and the position as counter, a request's draws are the same
whoever shares its batch, on every device, and however its tokens were scheduled.

One round on the words c0..c3 with the keys k0, k1 is two products of 32 by 32 bits:

    c0, c1, c2, c3 = high(M1 c2) ^ c1 ^ k0, low(M1 c2), high(M0 c0) ^ c3 ^ k1, low(M0 c0)

Words of 32 bits lie in int64. A product that wraps around keeps its 64 bits, which shifts and masks take apart.
"""

import torch

WORD = 0xFFFFFFFF
FACTORS = (0xD2511F53, 0xCD9E8D57)
STEPS = (0x9E3779B9, 0xBB67AE85)  # of the keys, from round to round
ROUNDS = 10


def philox(
    counter: torch.Tensor,  # (..., 4) int64, words of 32 bits
    key: torch.Tensor,  # (..., 2) int64
) -> torch.Tensor:  # (..., 4) int64
    """Return four random words for each counter and key.

    >>> words = philox(torch.zeros(4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    >>> [f"{word:08x}" for word in words.tolist()]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    factors, steps = (torch.tensor(pair, dtype=torch.int64, device=counter.device) for pair in (FACTORS, STEPS))
    even, odd = counter[..., 0::2], counter[..., 1::2]
    for _ in range(ROUNDS):
        product = even * factors
        high, low = (product >> 32) & WORD, product & WORD
        even, odd = high.flip(-1) ^ odd ^ key, low.flip(-1)
        key = (key + steps) & WORD
    return torch.stack((even, odd), -1).flatten(-2)


def random_words(
    seeds: torch.Tensor,  # (...) int64, not negative
    positions: torch.Tensor,  # (...) int64, not negative
) -> torch.Tensor:  # (..., 2) int64
    """Return 64 random bits for each seed and position, as two words of 32 bits, the higher one first."""
    seeds, positions = torch.broadcast_tensors(seeds, positions)
    zero = torch.zeros_like(positions)
    counter = torch.stack((positions & WORD, positions >> 32, zero, zero), -1)
    return philox(counter, torch.stack((seeds & WORD, seeds >> 32), -1))[..., :2]
