"""Decoders from packed bytes to codes inside a register, one per packing: a lane of 4 bytes is 4 inputs of one output.

    i2   64 bytes hold 16 outputs x 16 inputs; byte 4 n + kk holds the codes of k = 4 j + kk in bits 2 j, j = 0..3
    t5   64 bytes hold 16 outputs x 20 inputs; byte 4 n + kk the digits t_j of k = 4 j + kk: of t0..t3 the number
         r = 27 t0 + 9 t1 + 3 t2 + t3; the byte is r + 64 t4 where r < 64, else 192 + (r - 64) + 17 t4

So most bytes hold t4 in their upper two bits, and r in six bits: just an index into a table of 64 bytes.

"In place" leaves a code in its bits, 4^j times itself, which saves the shift where the sums can be divided at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from bitnet_jit.kernels.numba.intrinsics.emit import I8, call, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import Isa, target_features

LOW = 0x03030303
LATE, LATE_NUMBERS = 192, 17  # the first byte with four digits that make 64..80, and how many such numbers there are


@dataclass(frozen=True)
class Decoder:
    """The way a packing is read.

    Attributes:
        inputs: inputs in one step of K.
        codes: (builder, isa, packed register, in_place) -> one register of codes per 4 inputs.
        scales: isa -> the factors of the in-place codes, one per register: powers of two.
    """

    inputs: int
    codes: Callable[..., list[ir.Value]]
    scales: Callable[[Isa], tuple[int, ...]]


def two_bit_fields(builder, isa: Isa, packed: ir.Value, in_place: bool) -> list[ir.Value]:
    """Emit the four 2-bit fields of every byte."""
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
    """Return the factors of `two_bit_fields` in place."""
    return (1, 4, 16, 1 if isa.signed_codes else 64)


def has_byte_permutes(isa: Isa) -> bool:
    """Return whether a look-up in a table of 64 bytes is one instruction."""
    return isa.lanes == 16 and "avx512vbmi" in target_features()


def base_three_digits(builder, isa: Isa, packed: ir.Value, in_place: bool) -> list[ir.Value]:
    """Emit four digits from their number 0..80, by look-ups or arithmetic, and last the digit beside that number."""
    value = builder.bitcast(packed, ir.VectorType(I8, 4 * isa.lanes))
    if has_byte_permutes(isa):
        fields, top = look_up_digits(builder, isa, value, in_place)
        return [*two_bit_fields(builder, isa, builder.bitcast(fields, isa.vector), in_place), top]
    top, rest = split_number(builder, value)
    digits = []
    for weight in (27, 9, 3):
        digit, rest = take_digit(builder, rest, weight)
        digits.append(digit)
    return [builder.bitcast(digit, isa.vector) for digit in (*digits, rest, top)]


def look_up_digits(builder, isa: Isa, value: ir.Value, in_place: bool) -> tuple[ir.Value, ir.Value]:
    """Look up four digits of each byte as 2-bit fields, and the digit beside; there is a table per kind of byte."""
    kind = value.type
    late = builder.icmp_unsigned(">=", value, splat_constant(kind, LATE))
    unit = 64 if in_place else 1  # factor of the digit beside

    def look_up(entries: list[int]) -> ir.Value:
        table = ir.Constant(kind, [entry & 0xFF for entry in entries])
        return call(builder, "llvm.x86.avx512.permvar.qi.512", kind, table, value)

    early_fields = look_up([fields_of(i) for i in range(64)])
    late_fields = look_up([fields_of(64 + i % LATE_NUMBERS) for i in range(64)])
    late_top = look_up([unit * (i // LATE_NUMBERS) for i in range(64)])
    early_top = builder.and_(value, splat_constant(kind, 0xC0))
    if not in_place:
        shifted = builder.lshr(builder.bitcast(early_top, isa.vector), splat_constant(isa.vector, 6))
        early_top = builder.bitcast(shifted, kind)
    top = builder.select(late, late_top, early_top)
    return builder.select(late, late_fields, early_fields), builder.bitcast(top, isa.vector)


def fields_of(number: int) -> int:
    """Return the four base-3 digits of a number, the most significant first, as 2-bit fields from the lowest up."""
    return number // 27 | number // 9 % 3 << 2 | number // 3 % 3 << 4 | number % 3 << 6


def split_number(builder, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Split bytes into the digit beside, and the number 0..80 of the four others."""
    kind = value.type
    late = builder.icmp_unsigned(">=", value, splat_constant(kind, LATE))

    def either(if_late: int, if_early: int) -> ir.Value:
        return builder.select(late, splat_constant(kind, if_late), splat_constant(kind, if_early))

    value = builder.sub(value, either(LATE - 64, 0))
    width, nothing = either(LATE_NUMBERS, 64), splat_constant(kind, 0)
    one = builder.icmp_unsigned(">=", value, either(64 + LATE_NUMBERS, 64))
    two = builder.icmp_unsigned(">=", value, either(64 + 2 * LATE_NUMBERS, 128))
    rest = builder.sub(value, builder.select(one, width, nothing))
    rest = builder.sub(rest, builder.select(two, width, nothing))
    return builder.add(builder.zext(one, kind), builder.zext(two, kind)), rest


def take_digit(builder, value: ir.Value, weight: int) -> tuple[ir.Value, ir.Value]:
    """Emit value // weight and value % weight of bytes below 3 * weight."""
    vector = value.type
    one = builder.icmp_unsigned(">=", value, splat_constant(vector, weight))
    two = builder.icmp_unsigned(">=", value, splat_constant(vector, 2 * weight))

    def pick(if_two: int, if_one: int) -> ir.Value:
        low = builder.select(one, splat_constant(vector, if_one), splat_constant(vector, 0))
        return builder.select(two, splat_constant(vector, if_two), low)

    return pick(2, 1), builder.sub(value, pick(2 * weight, weight))


def base_three_scales(isa: Isa) -> tuple[int, ...]:
    """Return the factors of `base_three_digits` in place."""
    return (*two_bit_scales(isa), 64) if has_byte_permutes(isa) else (1, 1, 1, 1, 1)


DECODERS = {
    "i2": Decoder(16, two_bit_fields, two_bit_scales),
    "t5": Decoder(20, base_three_digits, base_three_scales),
}
