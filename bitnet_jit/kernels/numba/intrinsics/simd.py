"""Registers and register tiles as Numba types, and the few operations that the kernels' loops are made of.

A tile is `rows` rows of x by `columns` x 16 outputs: its accumulators live in one LLVM array of vectors, which LLVM
keeps in registers. The packed weight's layout is the same for every instruction set: 64 bytes hold 16 outputs, four
neighbouring bytes one output's codes of one step of K, so that a register of any width holds whole outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from bitnet_jit.kernels.numba.intrinsics.decode import DECODERS
from bitnet_jit.kernels.numba.intrinsics.isa import I8, I32, ISAS, Isa, call, machine, splat_constant

I64 = ir.IntType(64)
F32 = ir.FloatType()
GROUP_BYTES = 64  # of packed weights: 16 outputs
PREFETCHING_ROWS = 4  # more are not short of memory


@dataclass(frozen=True)
class Tile:
    """The shape of a register tile: a kernel's config.

    Attributes:
        isa: name of the instruction set.
        format: name of the packing.
        rows: rows of x.
        columns: groups of 16 outputs: 1, 2 or 4.
        cold: weights are asked for as early as memory needs it; the nearer caches do better without.
    """

    isa: str
    format: str
    rows: int
    columns: int
    cold: bool = True

    @property
    def hot(self) -> "Tile":
        """This tile for weights that lie in the caches."""
        return replace(self, cold=False)

    @property
    def width(self) -> int:
        """Outputs in the tile."""
        return 16 * self.columns

    @property
    def inputs(self) -> int:
        """Inputs in one step of K."""
        return DECODERS[self.format].inputs


class RegistersType(types.Type):
    """`count` vector registers."""

    def __init__(self, isa: str, count: int) -> None:
        self.isa, self.count = isa, count
        super().__init__(name=f"Registers({isa}, {count})")

    @property
    def llvm(self) -> ir.ArrayType:
        return ir.ArrayType(ISAS[self.isa].vector, self.count)


@register_model(RegistersType)
class RegistersModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def vectors_per_group(isa: Isa) -> int:
    """Registers that hold the accumulators of 16 outputs."""
    return 16 // isa.lanes


def accumulators(tile: Tile) -> tuple[Isa, int, int]:
    """The instruction set, the vectors of a row, and the bit planes with accumulators of their own.

    With few rows few share an unpacked code, so codes stay where they lie in their bytes (4^j times themselves) and
    each bit plane sums apart, as far as there are registers for that: three operations less a vector of weights.
    """
    isa = ISAS[tile.isa]
    vectors, planes = tile.columns * vectors_per_group(isa), len(DECODERS[tile.format].scales(isa))
    return isa, vectors, planes if tile.rows * vectors * planes <= isa.registers else 1


def registers_type(tile: Tile) -> RegistersType:
    isa, vectors, planes = accumulators(tile)
    return RegistersType(isa.name, tile.rows * vectors * planes)


def at(builder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    """A pointer to `kind`, `offset` bytes behind an address."""
    moved = builder.add(address, ir.Constant(I64, offset)) if offset else address
    return builder.inttoptr(moved, kind.as_pointer())


def load(builder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    """Load from any alignment."""
    return builder.load(at(builder, address, offset, kind), align=1)


def splat(builder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """The scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, splat_constant(ir.VectorType(I32, vector.count), 0))


@intrinsic
def zero(typingctx, tile):
    """Registers of a tile, all zero."""
    kind = registers_type(tile.value)
    return kind(tile), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


def prefetch(builder, address: ir.Value, offset: int, locality: int) -> None:
    """Ask for the cache line `offset` bytes behind an address."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [at(builder, address, offset, I8), *(ir.Constant(I32, flag) for flag in (0, locality, 1))])


def prefetch_weights(builder, w: ir.Value, offset: int, cold: bool = True) -> None:
    """Ask for the weights 2, 4 and 6 KiB after the line at w + offset: 1.9 x as fast from memory as without.

    The near ones go to the first cache, the far ones to the second, whose own prefetcher stops at the end of a page. A
    core drops what it has no room for, so some are asked for twice. Asking takes turns with the arithmetic: all at
    once, most would be dropped.
    """
    prefetch(builder, w, offset + 2048, 3)
    if cold:
        prefetch(builder, w, offset + 4096, 2)
        if offset // GROUP_BYTES % 2 == 0:
            prefetch(builder, w, offset + 6144, 2)


def order(tile: Tile, vectors: int) -> Iterator[tuple[int, int, int]]:
    """In which order a step multiplies vectors of weights, fours of inputs and rows.

    One row: vector by vector, so that prefetches are spread out. More: all vectors by one x, which is then done with.
    """
    fours = tile.inputs // 4
    if tile.rows == 1:
        yield from product(range(vectors), range(fours), range(1))
    else:
        yield from ((v, j, r) for j, r, v in product(range(fours), range(tile.rows), range(vectors)))


def unpack(builder, tile: Tile, w: ir.Value, number: int, in_place: bool) -> list[ir.Value]:
    """Codes of vector `number` of a step at address w, each of 4 inputs; weights further on are asked for."""
    isa, place = ISAS[tile.isa], 4 * ISAS[tile.isa].lanes * number
    if tile.rows <= PREFETCHING_ROWS and place % GROUP_BYTES == 0:
        prefetch_weights(builder, w, place, tile.cold)
    return DECODERS[tile.format].codes(builder, isa, load(builder, w, place, isa.vector), in_place=in_place)


@intrinsic
def step(typingctx, tile, registers, x, x_stride, w):
    """One step of K: registers += codes at address w times x at address x, whose rows are x_stride bytes apart."""
    isa, vectors, planes = accumulators(tile.value)

    def codegen(context, builder, signature, args):
        _, registers, x, x_stride, w = args
        regs = [builder.extract_value(registers, i) for i in range(registers.type.count)]
        rows = [builder.add(x, builder.mul(x_stride, ir.Constant(I64, r))) for r in range(tile.value.rows)]
        codes: dict[int, list[ir.Value]] = {}
        x4: dict[tuple[int, int], ir.Value] = {}
        for v, j, r in order(tile.value, vectors):
            if v not in codes:
                codes[v] = unpack(builder, tile.value, w, v, planes > 1)
            if (j, r) not in x4:
                x4[j, r] = splat(builder, load(builder, rows[r], 4 * j, I32), isa.vector)
            i = (r * vectors + v) * planes + (j if planes > 1 else 0)
            regs[i] = isa.dot4(builder, regs[i], codes[v][j], x4[j, r])
        for i, reg in enumerate(regs):
            registers = builder.insert_value(registers, reg, i)
        return registers

    return registers(tile, registers, types.int64, types.int64, types.int64), codegen


@intrinsic
def spill(typingctx, tile, registers, acc):
    """Write a tile's sums to address acc, int32 (rows, 16 * columns)."""
    isa, vectors, planes = accumulators(tile.value)
    scales = DECODERS[tile.value.format].scales(isa)

    def codegen(context, builder, signature, args):
        _, registers, acc = args
        for i in range(tile.value.rows * vectors):
            total = builder.extract_value(registers, i * planes)
            for plane in range(1, planes):
                part = builder.extract_value(registers, i * planes + plane)
                shift = splat_constant(isa.vector, scales[plane].bit_length() - 1)
                total = builder.add(total, builder.ashr(part, shift) if scales[plane] > 1 else part)
            builder.store(total, at(builder, acc, 4 * isa.lanes * i, isa.vector), align=4)
        return context.get_dummy_value()

    return types.void(tile, registers, types.int64), codegen


@intrinsic
def stack_bytes(typingctx, tile):
    """The address of uninitialized int32 (rows, width) for a tile on the stack; alive until the function returns."""
    count = 4 * tile.value.rows * tile.value.width

    def codegen(context, builder, signature, args):
        with builder.goto_entry_block():
            buffer = builder.alloca(ir.ArrayType(I8, count))
        buffer.align = 64
        return builder.ptrtoint(buffer, I64)

    return types.int64(tile), codegen


@intrinsic
def pointer(typingctx, address, dtype):
    """An address as a typed pointer: p[i] reads and writes."""
    kind = dtype.dtype if isinstance(dtype, types.DType) else dtype.instance_type
    result = types.CPointer(kind)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, dtype), codegen


@intrinsic
def float_from_bits(typingctx, bits):
    """uint32 -> the float32 with those bits."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(args[0], F32)


@intrinsic
def bits_of_float(typingctx, value):
    """float32 -> its bits as uint32."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(args[0], I32)


def chooser(comparison: str, doc: str):
    @intrinsic
    def choose(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.select(builder.icmp_signed(comparison, *args), *args)

        return types.int64(types.int64, types.int64), codegen

    choose.__doc__ = doc
    return choose


least = chooser("<", "The smaller of two int64. Numba's min would be a function more to compile.")
most = chooser(">", "The larger of two int64.")


@intrinsic
def ticks(typingctx):
    """The CPU's clock; always 0 where a program may not read it."""

    def codegen(context, builder, signature, args):
        if machine().lower() not in ("x86_64", "amd64"):
            return ir.Constant(I64, 0)
        return call(builder, "llvm.readcyclecounter", I64)

    return types.int64(), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at an address, sequentially consistent; gives the value before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", at(builder, args[0], 0, I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """Read the int64 at an address that another thread may be writing; later reads stay behind it."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(at(builder, args[0], 0, I64), "acquire", 8)

    return types.int64(types.int64), codegen
