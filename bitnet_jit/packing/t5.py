"""`t5`: five codes per byte in base 3, 1.6 bits per weight. byte = c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4, at most 242."""

from bitnet_jit.packing.format import Array, Format


def digits(packed: Array) -> list[Array]:
    """Split bytes into five codes each; a byte above 242, which no packing writes, gives a fifth code of 3."""
    lower = [packed // 3**digit % 3 for digit in range(4)]
    return [*lower, packed // 81]


def join(codes: list[Array]) -> Array:
    return codes[0] + codes[1] * 3 + codes[2] * 9 + codes[3] * 27 + codes[4] * 81


T5 = Format("t5", codes_per_byte=5, digits=digits, join=join)
