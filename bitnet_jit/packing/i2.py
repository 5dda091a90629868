"""`i2`: four codes per byte, two bits each. byte = c0 + 4 c1 + 16 c2 + 64 c3."""

from bitnet_jit.packing.format import Array, Format


def digits(packed: Array) -> list[Array]:
    return [(packed >> 2 * digit) & 3 for digit in range(4)]


def join(codes: list[Array]) -> Array:
    return codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6


I2 = Format("i2", codes_per_byte=4, digits=digits, join=join)
