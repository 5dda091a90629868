"""A register tile of float sums: a step of K adds its pairs of products one after the other.

    s = s + (w_a x_a + w_b x_b)   for the pairs (a, b) of a step, in the order of `pairs`

w is -1, 0 or 1, so products are exact: a pair rounds once, a fused multiply-add changes nothing, and every way of
computing gives the same bits. Where a register holds 16 floats, the 4 bits of a pair's codes look the pair up in a
table of 16 sums, which is made once for all outputs: a shift, a look-up and an addition for 32 products, half of what
multiplying costs. Elsewhere weights are made floats.
"""

from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.decode import DECODERS, has_byte_permutes, look_up_digits
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I8, I64, at, call, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, target_features
from bitnet_jit.kernels.numba.intrinsics.prefetch import prefetch, prefetch_weights
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType, vectors_per_group
from bitnet_jit.kernels.numba.linear.tile import PREFETCHING_ROWS, Tile

PART_INPUTS = 160  # in one sum, at most: whole steps of every packing
RANGE_BLOCKS = 20  # of outputs, for which the tables of a part are made once
FUSE = ("contract",)
TABLE_BYTES = 64
FIELDS = 16  # inputs of a step whose codes lie in four fields of each byte


@dataclass(frozen=True)
class FloatTile(Tile):
    """A register tile whose sums are float32."""

    @property
    def looks_up(self) -> bool:
        """Return whether pairs are looked up in tables."""
        isa = ISAS[self.isa]
        return isa.lanes == 16 and (self.format == "i2" or has_byte_permutes(isa))

    @property
    def part_steps(self) -> int:
        """Return the steps of K in one sum, at most."""
        return PART_INPUTS // self.inputs

    @property
    def operand_bytes(self) -> int:
        """Return the bytes of one row of x in a step, as the step reads it: tables, or float32."""
        return self.inputs // 2 * TABLE_BYTES if self.looks_up else 4 * self.inputs

    @property
    def part_bytes(self) -> int:
        """Return the bytes of all rows' tables of a part."""
        return self.rows * self.part_steps * self.operand_bytes

    @property
    def range_blocks(self) -> int:
        """Return the blocks of outputs that pass one after the other, at most."""
        return RANGE_BLOCKS

    @property
    def range_bytes(self) -> int:
        """Return the bytes of the sums of a range of blocks."""
        return RANGE_BLOCKS * self.acc_bytes

    @property
    def range_scales_bytes(self) -> int:
        """Return the bytes of the scales of a range of blocks."""
        return RANGE_BLOCKS * self.span_bytes


def pairs(inputs: int) -> list[tuple[int, int]]:
    """Return the pairs of inputs of a step in the order in which they are added.

    The first 16 inputs as their codes lie in four bytes, two fields each; others (t5) as they come.

    >>> pairs(16)
    [(0, 4), (8, 12), (1, 5), (9, 13), (2, 6), (10, 14), (3, 7), (11, 15)]
    """
    by_bytes = [(half + byte, half + byte + 4) for byte in range(4) for half in (0, 8)]
    return by_bytes + [(k, k + 1) for k in range(FIELDS, inputs, 2)]


def float_registers(tile: Tile) -> RegistersType:
    """Return the type of a tile's sums: floats as the bits of integer registers."""
    return RegistersType(tile.isa, tile.rows * tile.columns * vectors_per_group(ISAS[tile.isa]))


@intrinsic
def zero_sums(typingctx, tile):
    """Return the sums of a tile, all zero."""
    kind = float_registers(tile.value)
    return kind(tile), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


def indices(builder, tile: FloatTile, packed: ir.Value) -> list[ir.Value]:
    """Emit the indices of a step's pairs in their tables: the low 4 bits of each lane; others may be anything."""
    isa = ISAS[tile.isa]

    def shifted(value: ir.Value, bits: int) -> ir.Value:
        return builder.lshr(value, splat_constant(isa.vector, bits)) if bits else value

    if tile.format == "i2":
        return [shifted(packed, bits) for bits in range(0, 32, 4)]
    value = builder.bitcast(packed, ir.VectorType(I8, 4 * isa.lanes))
    fields, beside = look_up_digits(builder, isa, value, in_place=False)
    fields = builder.bitcast(fields, isa.vector)
    beside = builder.or_(beside, shifted(beside, 6))
    return [shifted(fields, bits) for bits in range(0, 32, 4)] + [beside, shifted(beside, 16)]


def signs(builder, tile: FloatTile, packed: ir.Value) -> list[ir.Value]:
    """Emit the weights of a step's inputs as floats."""
    isa, decoder = ISAS[tile.isa], DECODERS[tile.format]
    floats = ir.VectorType(F32, isa.lanes)
    codes = decoder.codes(builder, isa, packed, in_place=False)

    def weight(k: int) -> ir.Value:
        code = builder.lshr(codes[k // 4], splat_constant(isa.vector, 8 * (k % 4))) if k % 4 else codes[k // 4]
        if isa.lanes == 8 and "avx" in target_features():  # looks at two bits of each lane
            table = ir.Constant(floats, [-1.0, 0.0, 1.0, 0.0] * 2)
            return call(builder, "llvm.x86.avx.vpermilvar.ps.256", floats, table, code)
        code = builder.and_(code, splat_constant(isa.vector, 3))
        return builder.sitofp(builder.sub(code, splat_constant(isa.vector, 1)), floats)

    return [weight(k) for k in range(decoder.inputs)]


@intrinsic
def add_step(typingctx, tile, registers, x, x_stride, w, ahead):
    """Add one step of K to sums: x as `operand_bytes` has it, rows x_stride bytes apart, and codes at address w.

    Ask for the codes that come next, or with a hot tile for those `ahead` bytes on.
    """
    config, isa = tile.value, ISAS[tile.value.isa]
    vectors = config.columns * vectors_per_group(isa)
    floats = ir.VectorType(F32, isa.lanes)

    def codegen(context, builder, signature, args):
        _, registers, x, x_stride, w, ahead = args
        sums = [builder.bitcast(builder.extract_value(registers, i), floats) for i in range(registers.type.count)]
        rows = [builder.add(x, builder.mul(x_stride, ir.Constant(I64, r))) for r in range(config.rows)]
        if config.rows <= PREFETCHING_ROWS:
            for v in range(0, vectors, vectors_per_group(isa)):
                if config.cold:
                    prefetch_weights(builder, w, 4 * isa.lanes * v)
                else:
                    prefetch(builder, builder.add(w, ahead), 4 * isa.lanes * v, 3)
        emit = indices if config.looks_up else signs
        weights = [emit(builder, config, load(builder, w, 4 * isa.lanes * v, isa.vector)) for v in range(vectors)]
        for number, (a, b) in enumerate(pairs(config.inputs)):
            for r, row in enumerate(rows):
                if config.looks_up:
                    table = load(builder, row, TABLE_BYTES * number, floats)
                else:
                    x_a, x_b = (splat(builder, load(builder, row, 4 * k, F32), floats) for k in (a, b))
                for v in range(vectors):
                    if config.looks_up:
                        name = "llvm.x86.avx512.permvar.sf.512"
                        pair = call(builder, name, floats, table, weights[v][number])
                    else:
                        first, second = builder.fmul(x_a, weights[v][a], flags=FUSE), weights[v][b]
                        pair = builder.fadd(first, builder.fmul(x_b, second, flags=FUSE), flags=FUSE)
                    sums[r * vectors + v] = builder.fadd(sums[r * vectors + v], pair)
        for i, total in enumerate(sums):
            registers = builder.insert_value(registers, builder.bitcast(total, isa.vector), i)
        return registers

    return registers(tile, registers, *(types.int64,) * 4), codegen


@intrinsic
def make_tables(typingctx, tile, x, tables):
    """Write the tables of a step's pairs, 16 floats each, of the float32 at address x: entry c_a + 4 c_b."""
    floats = ir.VectorType(F32, TABLE_BYTES // 4)
    signs_a = ir.Constant(floats, [-1.0, 0.0, 1.0, 0.0] * 4)
    signs_b = ir.Constant(floats, [sign for sign in (-1.0, 0.0, 1.0, 0.0) for _ in range(4)])

    def codegen(context, builder, signature, args):
        _, x, tables = args
        for number, (a, b) in enumerate(pairs(tile.value.inputs)):
            x_a, x_b = (splat(builder, load(builder, x, 4 * k, F32), floats) for k in (a, b))
            first, second = (builder.fmul(*factors, flags=FUSE) for factors in ((x_a, signs_a), (x_b, signs_b)))
            table = builder.fadd(first, second, flags=FUSE)
            builder.store(table, at(builder, tables, TABLE_BYTES * number, floats), align=4)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), codegen


@intrinsic
def end_part(typingctx, spec, registers, scales, sums):
    """Add registers, with group scales times the float32 per output at address scales, to sums (rows, 16 * columns)."""
    tile = spec.value.tile
    isa = ISAS[tile.isa]
    floats, vectors = ir.VectorType(F32, isa.lanes), tile.columns * vectors_per_group(isa)

    def codegen(context, builder, signature, args):
        _, registers, scales, sums = args
        for i in range(registers.type.count):
            value = builder.bitcast(builder.extract_value(registers, i), floats)
            if spec.value.grouped:
                value = builder.fmul(value, load(builder, scales, 4 * isa.lanes * (i % vectors), floats))
            place = at(builder, sums, 4 * isa.lanes * i, floats)
            builder.store(builder.fadd(builder.load(place, align=4), value), place, align=4)
        return context.get_dummy_value()

    return types.void(spec, registers, types.int64, types.int64), codegen
