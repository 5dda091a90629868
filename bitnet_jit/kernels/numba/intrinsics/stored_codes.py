"""Codes as files hold them -> canonical `i2`: each intrinsic decodes what a block, or 32 bytes, hold.

A vector has a code in the lowest bits of each byte; four bytes side by side become a byte of `i2`. Like everything in
`lanes.py` this is plain LLVM of one width for all CPUs.

The base-3 digits of ggml: byte = ceil(sum t_n 3^(4-n) * 256 / 243), and t_n = (((byte * 3^n) mod 256) * 3) >> 8.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I8, I16, I32, I64, at, load, splat, splat_constant
from bitnet_jit.packing.stored import Blocks, Run

BYTES = 32  # of a source that is not in blocks, decoded at a time
GROUP = 4  # blocks that are decoded side by side, so that short runs fill a register
FROM_T5 = 40  # bytes of `i2` that hold the codes of so many bytes of `t5`
CODES = 0x03030303  # the lowest two bits of each byte of a word
TEN_BITS = 0x3FF  # five codes
MAX_T5 = 242


def logical_shift(builder, value: ir.Value, bits: int) -> ir.Value:
    """Emit lanes shifted to the right, zeros coming in."""
    return builder.lshr(value, splat_constant(value.type, bits)) if bits else value


def push_together(builder, digits: ir.Value) -> ir.Value:
    """Emit bytes of four codes each, given words with a code in the lowest bits of each byte."""
    pairs = builder.or_(digits, logical_shift(builder, digits, 6))
    return builder.trunc(builder.or_(pairs, logical_shift(builder, pairs, 12)), ir.VectorType(I8, digits.type.count))


class BlockRows(NamedTuple):
    """Some blocks side by side: where they and their codes begin, and how far apart; addresses as LLVM's values."""

    source: ir.Value
    out: ir.Value
    blocks: Blocks
    number: int


def load_run(builder, rows: BlockRows, run: Run) -> ir.Value:
    """Emit the load of a run of every block: one vector of bytes, block by block."""
    kind = ir.VectorType(I8, run.num_bytes)
    parts = [load(builder, rows.source, run.start + n * rows.blocks.num_bytes, kind) for n in range(rows.number)]
    while len(parts) > 1:
        every = ir.Constant(ir.VectorType(I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
        parts = [builder.shuffle_vector(*parts[i : i + 2], every) for i in range(0, len(parts), 2)]
    return parts[0]


def store_codes(builder, rows: BlockRows, packed: ir.Value, first: int) -> None:
    """Emit the stores of canonical bytes, as many of each block, from element `first` of it on."""
    size = packed.type.count // rows.number
    undefined = ir.Constant(packed.type, ir.Undefined)
    for n in range(rows.number):
        places = ir.Constant(ir.VectorType(I32, size), list(range(n * size, (n + 1) * size)))
        part = builder.shuffle_vector(packed, undefined, places)
        builder.store(part, at(builder, rows.out, (first + n * rows.blocks.elements) // 4, part.type), align=1)


def bits_of_run(builder, rows: BlockRows, run: Run) -> None:
    """Emit the decoding of a run whose digits are two bits each."""
    source = load_run(builder, rows, run)
    words = builder.bitcast(source, ir.VectorType(I32, source.type.count // 4))
    for number, shift in enumerate(run.shifts):
        digits = builder.and_(logical_shift(builder, words, shift), splat_constant(words.type, CODES))
        store_codes(builder, rows, push_together(builder, digits), run.first + number * run.num_bytes)


def trits_of_run(builder, rows: BlockRows, run: Run) -> None:
    """Emit the decoding of a run of base-3 digits; two bytes are doubled, 3 times a byte being the digits behind."""
    left, step = load_run(builder, rows, run), 1
    if run.num_bytes < 4:
        left, step = beside(builder, left, tripled(builder, left), run.num_bytes), 2
    for number in range(0, run.trits, step):
        words = builder.bitcast(first_trit(builder, left), ir.VectorType(I32, left.type.count // 4))
        store_codes(builder, rows, push_together(builder, words), run.first + number * run.num_bytes)
        for _ in range(step):
            left = tripled(builder, left)


def beside(builder, first: ir.Value, second: ir.Value, size: int) -> ir.Value:
    """Emit parts of two vectors in turn, of `size` lanes each."""
    count = first.type.count
    places = [start + lane for part in range(0, count, size) for start in (part, count + part) for lane in range(size)]
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, 2 * count), places))


def first_trit(builder, left: ir.Value) -> ir.Value:
    """Emit the integer part of 3 * byte / 256 of each byte: 0, 1 or 2."""
    above = [builder.icmp_unsigned(">", left, splat_constant(left.type, bound)) for bound in (85, 170)]
    low, high = (builder.sext(mask, left.type) for mask in above)
    return builder.neg(builder.add(low, high))


def tripled(builder, left: ir.Value) -> ir.Value:
    """Emit 3 times each byte, modulo 256."""
    return builder.add(builder.add(left, left), left)


def copy_run(builder, rows: BlockRows, run: Run) -> None:
    """Emit the copy of a run whose bytes are canonical."""
    store_codes(builder, rows, load_run(builder, rows, run), run.first)


def block_decoder(count: int, doc: str):
    """Return an intrinsic that decodes so many blocks side by side."""

    @intrinsic
    def decode_some(typingctx, blocks, source, out):
        def codegen(context, builder, signature, args):
            rows = BlockRows(args[1], args[2], blocks.value, count)
            for run in blocks.value.runs:
                of_run = trits_of_run if run.trits else bits_of_run if run.shifts else copy_run
                of_run(builder, rows, run)
            return context.get_dummy_value()

        return types.void(blocks, types.int64, types.int64), codegen

    decode_some.__doc__ = doc
    return decode_some


decode_block = block_decoder(1, "Decode a block of `blocks` (static, `Blocks`) at an address to canonical codes.")
decode_group = block_decoder(GROUP, "Decode GROUP blocks of `blocks` (static, `Blocks`), one behind the other.")


@intrinsic
def decode_column(typingctx, shift, source, out):
    """Store 8 bytes of a row's canonical codes, given 32 bytes of columns, and the bit at which its codes begin."""

    def codegen(context, builder, signature, args):
        shift, source, out = args
        words = load(builder, source, 0, ir.VectorType(I32, BYTES // 4))
        shifted = builder.lshr(words, splat(builder, builder.trunc(shift, I32), words.type))
        packed = push_together(builder, builder.and_(shifted, splat_constant(words.type, CODES)))
        builder.store(packed, at(builder, out, 0, packed.type), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def decode_t5(typingctx, source, out):
    """Store 40 bytes of canonical codes, given 32 bytes of `t5`; no codes become codes 3."""

    def codegen(context, builder, signature, args):
        number = load(builder, args[0], 0, ir.VectorType(I8, BYTES))
        wrong = builder.sext(builder.icmp_unsigned(">", number, splat_constant(number.type, MAX_T5)), number.type)
        left = as_fraction(builder, number)
        last, codes = first_trit(builder, left), None
        for digit in range(3, -1, -1):
            left = tripled(builder, left)
            words = builder.bitcast(first_trit(builder, left), ir.VectorType(I32, BYTES // 4))
            placed = builder.shl(words, splat_constant(words.type, 2 * digit))
            codes = placed if codes is None else builder.or_(codes, placed)
        four = builder.or_(builder.bitcast(codes, number.type), wrong)
        tens = builder.bitcast(beside(builder, four, builder.or_(last, wrong), 1), ir.VectorType(I64, BYTES // 4))
        store_tens(builder, tens, args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def as_fraction(builder, number: ir.Value) -> ir.Value:
    """Emit byte * 256 / 243, rounded up or a little more: its base-3 digits are a number's of `t5`, from the highest.

    All 243 numbers have been compared.
    """
    wide = builder.zext(number, ir.VectorType(I16, BYTES))
    more = builder.add(builder.mul(wide, splat_constant(wide.type, 55)), splat_constant(wide.type, 1003))
    return builder.add(number, builder.trunc(logical_shift(builder, more, 10), number.type))


def store_tens(builder, tens: ir.Value, out: ir.Value) -> None:
    """Emit the store of words of four times ten bits, in 16 bits each, one behind the other: 40 bytes."""
    joined = None
    for place in range(4):
        part = builder.and_(logical_shift(builder, tens, 6 * place), splat_constant(tens.type, TEN_BITS << 10 * place))
        joined = part if joined is None else builder.or_(joined, part)
    every = builder.bitcast(joined, ir.VectorType(I8, 2 * BYTES))
    kept = [8 * word + byte for word in range(BYTES // 4) for byte in range(5)]
    for start, end in ((0, BYTES), (BYTES, FROM_T5)):  # vectors of a power of two: others are taken apart
        places = ir.Constant(ir.VectorType(I32, end - start), kept[start:end])
        part = builder.shuffle_vector(every, ir.Constant(every.type, ir.Undefined), places)
        builder.store(part, at(builder, out, start, part.type), align=1)


@intrinsic
def count_bits(typingctx, value):
    """Return the number of bits of an int64 that are set."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen
