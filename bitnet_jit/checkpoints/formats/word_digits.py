"""Four codes at a time: bytes as 32-bit words, and codes in the lowest bits of a word's bytes as one byte of `i2`."""

import torch
from torch.nn import functional as F

CODES = 0x03030303  # the lowest two bits of each byte
PAD = 0b01010101  # four codes of weight 0


def as_words(piece: torch.Tensor) -> torch.Tensor:
    """View uint8 (n, K) as int32 (n, ceil(K / 4)), the first byte lowest; missing bytes hold weights 0."""
    missing = -piece.shape[1] % 4
    flat = (F.pad(piece, (0, missing), value=PAD) if missing else piece.contiguous()).view(-1)
    aligned = flat.storage_offset() % 4 == 0 and flat.data_ptr() % 4 == 0
    return (flat if aligned else flat.clone()).view(torch.int32).view(len(piece), -1)


def push_together(codes: torch.Tensor, out: torch.Tensor) -> None:
    """Turn int32 with a code in the lowest bits of each byte into uint8 with the four codes side by side."""
    pairs = codes | codes >> 6
    out.copy_((pairs | pairs >> 12) & 255)


def pull_apart(packed: torch.Tensor) -> torch.Tensor:
    """Turn uint8 with four codes side by side into int32 with a code in the lowest bits of each byte.

    >>> f"{pull_apart(torch.tensor([0b11_10_01_00], dtype=torch.uint8)).item():032b}"
    '00000011000000100000000100000000'
    """
    words = packed.int()
    return (words | words << 6 | words << 12 | words << 18) & CODES
