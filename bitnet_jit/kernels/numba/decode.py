"""From packed bytes to codes inside a register, for each packing: a lane of 4 bytes is 4 inputs of one output.

    i2   64 bytes hold 16 outputs x 16 inputs; byte 4 n + kk holds the codes of k = 4 j + kk in bits 2 j, j = 0..3
    t5   64 bytes hold 16 outputs x 20 inputs; byte 4 n + kk = 81 t4 + 27 t0 + 9 t1 + 3 t2 + t3, digit j of k = 4 j + kk

"In place" leaves a code in its bits, 4^j times itself, which saves the shift where the sums can be divided at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from bitnet_jit.kernels.numba.isa import I8, Isa, call, cpu_features, splat_constant

LOW = 0x03030303


@dataclass(frozen=True)
class Decoder:
    """How a packing is read.

    Attributes:
        inputs: inputs in one step of K.
        codes: (builder, isa, packed register, in_place) -> one register of codes for each 4 inputs.
        scales: isa -> what the in-place codes of each register are multiplied by: powers of two.
    """

    inputs: int
    codes: Callable[..., list[ir.Value]]
    scales: Callable[[Isa], tuple[int, ...]]


def two_bit_fields(builder, isa: Isa, packed: ir.Value, in_place: bool) -> list[ir.Value]:
    """The four 2-bit fields of every byte."""
    fields = []
    for field in range(4):
        if in_place and not (isa.signed_codes and field == 3):
            mask = splat_constant(isa.vector, LOW << 2 * field)
            fields.append(builder.and_(packed, mask))
        else:
            shifted = builder.lshr(packed, splat_constant(isa.vector, 2 * field)) if field else packed
            fields.append(builder.and_(shifted, splat_constant(isa.vector, LOW)))
    return fields


def two_bit_scales(isa: Isa) -> tuple[int, ...]:
    return (1, 4, 16, 1 if isa.signed_codes else 64)


def base_three_digits(builder, isa: Isa, packed: ir.Value, in_place: bool) -> list[ir.Value]:
    """Two compares take off the top digit; the rest (0..80) is one look-up of four 2-bit fields, or arithmetic."""
    vector = ir.VectorType(I8, 4 * isa.lanes)
    top, rest = take_digit(builder, builder.bitcast(packed, vector), 81)
    if isa.lanes == 16 and "avx512vbmi" in cpu_features():
        fields = builder.bitcast(look_up(builder, rest), isa.vector)
        return [*two_bit_fields(builder, isa, fields, in_place), builder.bitcast(top, isa.vector)]
    digits = []
    for weight in (27, 9, 3):
        digit, rest = take_digit(builder, rest, weight)
        digits.append(digit)
    return [builder.bitcast(digit, isa.vector) for digit in (*digits, rest, top)]


def take_digit(builder, value: ir.Value, weight: int) -> tuple[ir.Value, ir.Value]:
    """Bytes below 3 * weight -> value // weight and value % weight."""
    vector = value.type
    one = builder.icmp_unsigned(">=", value, splat_constant(vector, weight))
    two = builder.icmp_unsigned(">=", value, splat_constant(vector, 2 * weight))

    def pick(if_two: int, if_one: int) -> ir.Value:
        low = builder.select(one, splat_constant(vector, if_one), splat_constant(vector, 0))
        return builder.select(two, splat_constant(vector, if_two), low)

    return pick(2, 1), builder.sub(value, pick(2 * weight, weight))


def look_up(builder, rest: ir.Value) -> ir.Value:
    """vpermi2b: 128 entries, each the four digits of its index as 2-bit fields."""
    table = [i // 27 | i // 9 % 3 << 2 | i // 3 % 3 << 4 | i % 3 << 6 for i in range(128)]
    halves = [ir.Constant(rest.type, [entry & 0xFF for entry in table[part : part + 64]]) for part in (0, 64)]
    return call(builder, "llvm.x86.avx512.vpermi2var.qi.512", rest.type, halves[0], rest, halves[1])


def base_three_scales(isa: Isa) -> tuple[int, ...]:
    looked_up = isa.lanes == 16 and "avx512vbmi" in cpu_features()
    return (*two_bit_scales(isa), 1) if looked_up else (1, 1, 1, 1, 1)


DECODERS = {
    "i2": Decoder(16, two_bit_fields, two_bit_scales),
    "t5": Decoder(20, base_three_digits, base_three_scales),
}
