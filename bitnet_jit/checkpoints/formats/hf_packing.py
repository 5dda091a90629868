"""Bytes that hold a column of four rows, turned into our canonical `i2` without unpacking the weight.

So is Hugging Face's packing: uint8 (R, K) with R = ceil(N / 4) holds row i * R + j of the weight in bits 2i, 2i + 1 of
byte row j. Here, uint8 (N, ceil(K / 4)) holds four inputs of one row in a byte. Both have 2-bit codes w + 1. So four
neighbouring bytes there, read as one 32-bit word of 4 x 4 codes, hold a byte of each of four rows here, once they are
transposed.
"""

import torch

from bitnet_jit.checkpoints.formats.word_digits import as_words
from bitnet_jit.packing.i2 import transposed
from bitnet_jit.packing.stored import Columns

HUGGING_FACE = Columns((0, 2, 4, 6), adjoining=False)
SLICE_BYTES = 2**18  # of a source on the CPU, converted at a time: all that is computed from it stays in the caches


def packed_rows(out_features: int) -> int:
    """Return the number of byte rows of a packed weight.

    >>> packed_rows(10)
    3
    """
    return -(-out_features // 4)


def repack(source: torch.Tensor, out: torch.Tensor, in_features: int, columns: Columns = HUGGING_FACE) -> None:
    """Fill `out`, canonical i2 (N, ceil(K / 4)), from `source`, uint8 (ceil(N / 4), K), slice by slice.

    >>> source = torch.tensor([[0b10_00_01_00, 0b00_01_10_01]], dtype=torch.uint8)
    >>> out = torch.empty(4, 1, dtype=torch.uint8)
    >>> repack(source, out, 2)
    >>> [f"{byte:08b}" for byte in out.flatten().tolist()]
    ['01010100', '01011001', '01010100', '01010010']
    """
    height = source.shape[0]
    step = max(1, SLICE_BYTES // in_features) if source.device.type == "cpu" else max(1, height)
    for start in range(0, height, step):
        words = as_words(source[start : start + step])
        turned = transposed(words).view(torch.uint8).view(*words.shape, 4)
        for place, shift in enumerate(columns.shifts):
            first, apart = (4 * start + place, 4) if columns.adjoining else (place * height + start, 1)
            rows = out[first : min(first + apart * words.shape[0], out.shape[0]) : apart]
            rows.copy_(turned[: rows.shape[0], :, shift // 2])
