"""Ternary blocks of GGUF -> canonical `i2`, without unpacking the weight.

Every block is a few runs of bytes. Byte m of a run holds codes of the elements first + n * bytes + m, as digit n: two
bits of the byte, or a base-3 digit of it. So neighbouring bytes hold neighbouring elements, which four by four make a
byte of `i2`: four bytes are read as one 32-bit word, and a digit of all four is taken at once.

The base-3 digits of ggml: byte = ceil(sum t_n 3^(4-n) * 256 / 243), and t_n = (((byte * 3^n) mod 256) * 3) >> 8.
"""

from collections.abc import Sequence

import torch

from bitnet_jit.checkpoints.formats.word_digits import as_words, push_together
from bitnet_jit.packing.i2 import transposed
from bitnet_jit.packing.stored import Run

EVEN, EVEN_CODES = 0x00FF00FF, 0x00030003  # the bytes 0 and 2 of a word as two numbers of 16 bits, and their codes
SLICE_BYTES = 2**18  # of blocks on the CPU, converted at a time: all that is computed from them stays in the caches


def to_i2(blocks: torch.Tensor, runs: Sequence[Run], out: torch.Tensor) -> None:
    """Fill `out`, uint8 (B, block / 4), with the canonical codes of blocks, uint8 (B, bytes), slice by slice.

    >>> out = torch.empty(1, 4, dtype=torch.uint8)
    >>> to_i2(torch.tensor([[0xA4, 0x55, 0x55, 0x55]], dtype=torch.uint8), [Run(0, 4, 0, (0, 2, 4, 6))], out)
    >>> [f"{byte:08b}" for byte in out[0].tolist()]
    ['01010100', '01010101', '01010110', '01010110']
    """
    step = max(1, SLICE_BYTES // blocks.shape[1]) if blocks.device.type == "cpu" else max(1, len(blocks))
    for start in range(0, len(blocks), step):
        part, codes = blocks[start : start + step], out[start : start + step]
        for run in runs:
            fill(part[:, run.start : run.start + run.num_bytes], run, codes[:, run.first // 4 :])


def fill(source: torch.Tensor, run: Run, out: torch.Tensor) -> None:
    """Fill the first bytes of `out`, uint8 (B, ...), with the codes of a run, uint8 (B, bytes)."""
    if run.trits:
        digits = trits_of(source, run.trits)
        push_together(digits, out[:, : digits[0].numel()].view(digits.shape))
    elif run.shifts:
        # four bytes of four codes each, turned: byte n of a word holds the codes n of four neighbouring elements
        turned = transposed(as_words(source)).view(torch.uint8).view(len(source), -1, 4)
        bits = out[:, : run.num_bytes].view(len(out), 4, -1)
        for place, shift in enumerate(run.shifts):
            bits[:, place] = turned[:, :, shift // 2]
    else:
        out[:, : run.num_bytes] = source


def trits_of(source: torch.Tensor, count: int) -> torch.Tensor:
    """Return base-3 digits of bytes, uint8 (B, bytes), as words int32 (B, digits, words).

    Of two bytes every second digit is taken, beside the next one: 3 times a byte has the digits behind its first.
    """
    step = 4 // source.shape[1] if source.shape[1] < 4 else 1
    words = as_words(source if step == 1 else torch.cat((source, source * 3), 1))
    even, odd, digits = words & EVEN, words >> 8 & EVEN, []
    for number in range(count):
        even, odd = even * 3, odd * 3
        if number % step == 0:
            digits.append((even >> 8 & EVEN_CODES) | (odd >> 8 & EVEN_CODES) << 8)
        even, odd = even & EVEN, odd & EVEN
    return torch.stack(digits, 1)
