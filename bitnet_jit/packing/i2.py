"""`i2`: four codes per byte, two bits each. byte = c0 + 4 c1 + 16 c2 + 64 c3."""

from bitnet_jit.packing.format import Array, Format


def digits(packed: Array) -> list[Array]:
    return [(packed >> 2 * digit) & 3 for digit in range(4)]


def join(codes: list[Array]) -> Array:
    return codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6


def transposed(words: Array) -> Array:
    """Transpose each int32 word as 4 x 4 codes, in two swaps: code n of byte j becomes code j of byte n.

    >>> import numpy as np
    >>> transposed(np.array([0b11_10_01_00], dtype=np.int32)).view(np.uint8).tolist()
    [0, 1, 2, 3]
    """
    for distance, mask in ((12, 0x0000F0F0), (6, 0x00CC00CC)):
        change = ((words >> distance) ^ words) & mask
        words = words ^ change ^ (change << distance)
    return words


I2 = Format("i2", codes_per_byte=4, digits=digits, join=join)
