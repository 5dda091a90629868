"""Register tiles of an int8 cache: products of codes, exact in int32, and what makes float32 of their sums.

    scores   sums[r, c] = sum over d of q[r, d] k[d, c], of which code_softmax.py makes weights
    values   two sums[r, c] = sum over s of digit[r, s] v[s, c];  float32(128 upper + lower) * unit[r]

A page is packed first: four neighbours along the sum lie in a word for each column, as dot-product instructions read
them. The digits of a weight have seven bits, so that every instruction set multiplies them as unsigned bytes.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.attention.panel import LINE, Panel, moved, packed
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I8, I16, I32, I64, at, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.prefetch import prefetch
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType
from bitnet_jit.kernels.numba.intrinsics.signed_dot import offset_unit, signed_dot4, signed_weights
from bitnet_jit.problem import PAGE

QUAD = 4  # steps of k in a word
DIGIT = 7  # bits


def sums_of(tile: Panel, registers: ir.Value, builder) -> list[ir.Value]:
    """Return the int32 sums that registers hold, row by row."""
    return [builder.extract_value(registers, i) for i in range(tile.rows * tile.vectors)]


def words_of(builder, tile: Panel, address: ir.Value) -> list[ir.Value]:
    """Emit the loads of one word of each column."""
    return [load(builder, address, 4 * tile.set.lanes * v, tile.set.vector) for v in range(tile.vectors)]


def ask(builder, address: ir.Value, num_bytes: int) -> None:
    """Emit requests for bytes that will be needed."""
    for offset in range(0, num_bytes, LINE):
        prefetch(builder, address, offset, 3)


def with_keys(builder, tile: Panel, registers: ir.Value, a: ir.Value, a_stride: ir.Value, words: list) -> ir.Value:
    """Emit registers with the products of words of keys and a word of codes of each row added."""
    sums = sums_of(tile, registers, builder)
    columns = [signed_weights(builder, tile.set, word) for word in words]
    for r in range(tile.rows):
        codes = splat(builder, load(builder, moved(builder, a, a_stride, r), 0, I32), tile.set.vector)
        for v, column in enumerate(columns):
            i = r * tile.vectors + v
            sums[i] = signed_dot4(builder, tile.set, sums[i], column, codes)
    return codes_packed(builder, registers, sums)


def with_values(builder, tile: Panel, registers: ir.Value, a: ir.Value, a_stride: ir.Value, words: list) -> ir.Value:
    """Emit registers with the products of words of values and a word of digits of each row added."""
    sums = sums_of(tile, registers, builder)
    for r in range(tile.rows):
        digits = splat(builder, load(builder, moved(builder, a, a_stride, r), 0, I32), tile.set.vector)
        for v, word in enumerate(words):
            i = r * tile.vectors + v
            sums[i] = tile.set.dot4(builder, sums[i], digits, word)
    return codes_packed(builder, registers, sums)


def codes_packed(builder, registers: ir.Value, sums: list[ir.Value]) -> ir.Value:
    """Emit registers that hold int32 sums."""
    for i, total in enumerate(sums):
        registers = builder.insert_value(registers, total, i)
    return registers


@intrinsic
def add_keys(typingctx, panel, registers, a, a_stride, b):
    """Add QUAD steps to sums: int8 codes of queries at address a, rows a_stride bytes apart, and words of keys at b."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, registers, a, a_stride, b = args
        return with_keys(builder, tile, registers, a, a_stride, words_of(builder, tile, b))

    return registers(panel, registers, types.int64, types.int64, types.int64), codegen


@intrinsic
def add_values(typingctx, panel, registers, a, a_stride, b):
    """Add QUAD steps to sums of one digit: digits at address a, rows a_stride bytes apart, and words of values at b."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, registers, a, a_stride, b = args
        return with_values(builder, tile, registers, a, a_stride, words_of(builder, tile, b))

    return registers(panel, registers, types.int64, types.int64, types.int64), codegen


@intrinsic
def add_key_bytes(typingctx, panel, registers, a, a_stride, b, b_stride):
    """Do as `add_keys` with QUAD rows of keys of a page, b_stride bytes apart, whose words are made here."""
    tile = panel.value
    assert tile.vectors == QUAD

    def codegen(context, builder, signature, args):
        _, registers, a, a_stride, b, b_stride = args
        rows = loaded_rows(builder, tile, b, b_stride)
        words = [word for half in range(2) for word in words_of_half(builder, rows, half)]
        return with_keys(builder, tile, registers, a, a_stride, words)

    return registers(panel, registers, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def add_value_bytes(typingctx, panel, upper, lower, a, a_stride, b, b_stride):
    """Do as `add_values`, for both digits, with QUAD rows of a page, and a half of the words that they make."""
    tile = panel.value
    assert tile.vectors == QUAD // 2

    def codegen(context, builder, signature, args):
        _, upper, lower, a, a_stride, b, b_stride = args
        words = words_of_half(builder, loaded_rows(builder, tile, b, b_stride), tile.half)
        low = builder.add(a, ir.Constant(I64, PAGE))
        pair = [with_values(builder, tile, *sums, a_stride, words) for sums in ((upper, a), (lower, low))]
        return context.make_tuple(builder, signature.return_type, pair)

    pair = types.UniTuple(upper, 2)
    return pair(panel, upper, lower, *(types.int64,) * 4), codegen


@intrinsic
def zero_codes(typingctx, panel):
    """Return the sums of a tile, all zero."""
    kind = RegistersType(panel.value.isa, panel.value.rows * panel.value.vectors)
    return kind(panel), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


@intrinsic(prefer_literal=True)
def ask_lines(typingctx, panel, address, count):
    """Ask for `count` (a literal) lines from an address on, where the panel asks at all."""
    lines = count.literal_value if panel.value.asks else 0

    def codegen(context, builder, signature, args):
        ask(builder, args[1], LINE * lines)
        return context.get_dummy_value()

    return types.void(panel, types.int64, count), codegen


@intrinsic
def weighted(typingctx, panel, upper, lower, units):
    """Make float32 of the sums of both digits, with the unit of each row at an address."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, upper, lower, units = args
        results = []
        halves = zip(sums_of(tile, upper, builder), sums_of(tile, lower, builder), strict=True)
        for i, (high, low) in enumerate(halves):
            total = builder.add(builder.shl(high, splat_constant(tile.set.vector, DIGIT)), low)
            unit = splat(builder, load(builder, units, 4 * (i // tile.vectors), F32), tile.floats)
            results.append(builder.fmul(builder.sitofp(total, tile.floats), unit))
        return packed(builder, tile, upper, results)

    return upper(panel, upper, lower, types.int64), codegen


@intrinsic
def offset_of(typingctx, panel):
    """Return what `signed_weights` adds to each code of a key."""
    return types.int32(panel), lambda context, builder, signature, args: ir.Constant(I32, offset_unit(panel.value.set))


@intrinsic
def interleave(typingctx, panel, source, stride, out):
    """Write words of four rows of bytes, `stride` apart at an address: of as many columns as a register has bytes.

    Words come in the order of `lane_of`, in which instructions of 128 bits side by side leave them.
    """

    def codegen(context, builder, signature, args):
        _, source, stride, out = args
        rows = loaded_rows(builder, panel.value, source, stride)
        for half in range(2):
            for part, value in enumerate(words_of_half(builder, rows, half)):
                builder.store(
                    value, at(builder, out, len(rows) * value.type.count * (2 * half + part), value.type), align=1
                )
        return context.get_dummy_value()

    return types.void(panel, types.int64, types.int64, types.int64), codegen


def loaded_rows(builder, tile: Panel, source: ir.Value, stride: ir.Value) -> list[ir.Value]:
    """Emit the loads of QUAD rows of bytes, of as many columns as a register has bytes."""
    kind = ir.VectorType(I8, 4 * tile.set.lanes)
    return [load(builder, moved(builder, source, stride, i), 0, kind) for i in range(QUAD)]


def words_of_half(builder, rows: list[ir.Value], half: int) -> list[ir.Value]:
    """Emit two of the four registers of words of four rows of bytes, in the order of `lane_of`."""
    count = rows[0].type.count
    words = ir.VectorType(I16, count // 2)
    a, b = (builder.bitcast(zipped(builder, x, y, half), words) for x, y in (rows[:2], rows[2:]))
    return [builder.bitcast(zipped(builder, a, b, part), ir.VectorType(I32, count // 4)) for part in range(2)]


def zipped(builder, a: ir.Value, b: ir.Value, half: int) -> ir.Value:
    """Emit the elements of two vectors in turn, block by block of 128 bits: of the lower halves, or of the upper."""
    count, block = a.type.count, 128 // a.type.element.width
    start = half * block // 2
    places = [
        i for first in range(start, count, block) for e in range(first, first + block // 2) for i in (e, count + e)
    ]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, count), places))


@jit
def multiply_keys(panel, a, a_stride, b, steps, ahead):
    """Return the sums of a tile of scores over words of keys, and ask for as many bytes from `ahead` on."""
    sums = zero_codes(panel)
    for k in range(steps):
        ask_lines(panel, ahead + 2 * LINE * k, 2)
        sums = add_keys(panel, sums, a + QUAD * k, a_stride, b + QUAD * PAGE * k)
    return sums


@jit
def multiply_values(panel, a, a_stride, b, b_stride, steps, ahead, units):
    """Return the float32 sums of a tile over words of values, `b_stride` bytes apart; ask likewise."""
    upper, lower = zero_codes(panel), zero_codes(panel)
    for k in range(steps):
        ask_lines(panel, ahead + LINE * k, 1)
        upper = add_values(panel, upper, a + QUAD * k, a_stride, b + k * b_stride)
        lower = add_values(panel, lower, a + PAGE + QUAD * k, a_stride, b + k * b_stride)
    return weighted(panel, upper, lower, units)


@jit
def multiply_key_bytes(panel, a, a_stride, b, steps, ahead):
    """Return the sums of a tile of scores over a page's keys as they lie in it; ask likewise."""
    sums = zero_codes(panel)
    for k in range(steps):
        ask_lines(panel, ahead + 2 * LINE * k, 2)
        sums = add_key_bytes(panel, sums, a + QUAD * k, a_stride, b + QUAD * PAGE * k, PAGE)
    return sums


@jit
def multiply_value_bytes(panel, a, a_stride, b, b_stride, steps, ahead, units):
    """Return the float32 sums of a tile over values of a page, `b_stride` bytes apart; ask likewise."""
    upper, lower = zero_codes(panel), zero_codes(panel)
    for k in range(steps):
        ask_lines(panel, ahead + 2 * LINE * k, 2)
        upper, lower = add_value_bytes(panel, upper, lower, a + QUAD * k, a_stride, b + QUAD * k * b_stride, b_stride)
    return weighted(panel, upper, lower, units)
