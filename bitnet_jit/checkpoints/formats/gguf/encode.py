"""Canonical `i2` codes -> ternary blocks of GGUF: the way back of `runs.py`."""

import torch

from bitnet_jit.checkpoints.formats.gguf.tensor_type import TensorType
from bitnet_jit.checkpoints.formats.word_digits import pull_apart
from bitnet_jit.packing.i2 import transposed
from bitnet_jit.packing.stored import Run

TRIT_SUMS = 3**5
TO_BYTE = (torch.arange(TRIT_SUMS, dtype=torch.int32) * 256 + TRIT_SUMS - 1) // TRIT_SUMS  # of base-3 numbers


def to_blocks(codes: torch.Tensor, w_scale: torch.Tensor, of: TensorType) -> torch.Tensor:
    """Return the blocks uint8 (B, bytes) of a type, given codes (B, block / 4) and a float16 scale per block (B,).

    >>> from bitnet_jit.checkpoints.formats.gguf.types import TYPES
    >>> codes = torch.full((1, 16), 0b01_01_01_01, dtype=torch.uint8)
    >>> to_blocks(codes, torch.tensor([0.5], dtype=torch.float16), TYPES[42])[0, :4].tolist()
    [0, 56, 85, 85]
    """
    blocks = torch.empty(len(codes), of.num_bytes, dtype=torch.uint8)
    for run in of.runs:
        blocks[:, run.start : run.start + run.num_bytes] = run_bytes(codes[:, run.first // 4 :], run)
    blocks[:, of.scale_at : of.scale_at + 2] = w_scale.view(torch.uint8).view(-1, 2)
    return blocks


def run_bytes(codes: torch.Tensor, run: Run) -> torch.Tensor:
    """Return the bytes of a run, uint8 (B, bytes), whose codes begin with those in the first byte of `codes`."""
    if run.trits:
        return trit_bytes(codes, run)
    if not run.shifts:
        return codes[:, : run.num_bytes]
    bits = codes[:, : run.num_bytes].view(len(codes), 4, -1)
    turned = torch.stack([bits[:, run.shifts.index(2 * place)] for place in range(4)], -1)
    words: torch.Tensor = transposed(turned.view(torch.int32))
    return words.view(torch.uint8).view(len(codes), -1)


def trit_bytes(codes: torch.Tensor, run: Run) -> torch.Tensor:
    """Return the bytes of a run of base-3 digits, the first the most significant of five."""
    count = run.trits * run.num_bytes // 4
    digits = pull_apart(codes[:, :count]).view(torch.uint8).view(len(codes), run.trits, run.num_bytes)
    total = torch.zeros(len(codes), run.num_bytes, dtype=torch.int32)
    for number in range(run.trits):
        total += digits[:, number].int() * 3 ** (4 - number)
    return TO_BYTE[total].to(torch.uint8)


def i2_s_bytes(codes: torch.Tensor, w_scale: torch.Tensor, run: Run) -> torch.Tensor:
    """Return the bytes of an I2_S tensor, uint8 (bytes,), given codes (B, block / 4) and its scale, float32 ()."""
    tail = torch.zeros(8, dtype=torch.float32)
    tail[0] = w_scale
    return torch.cat((run_bytes(codes, run).reshape(-1), tail.view(torch.uint8)))
