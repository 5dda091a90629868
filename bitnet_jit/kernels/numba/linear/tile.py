"""One register tile: `rows` rows of x by `columns` x 16 outputs, whose sums stay in registers while K passes.

    acc = sum over k of x_q * (w + 1):  the codes w + 1 are unsigned, as the CPUs' instructions want them

The packed weight's layout is the same for every instruction set: 64 bytes hold 16 outputs, four neighbouring bytes one
output's codes of one step of K, so that a register of any width holds whole outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.decode import DECODERS
from bitnet_jit.kernels.numba.intrinsics.emit import I32, I64, at, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, Isa
from bitnet_jit.kernels.numba.intrinsics.prefetch import GROUP_BYTES, prefetch_weights
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType, vectors_per_group
from bitnet_jit.kernels.numba.layout import STEP_BYTES

PREFETCHING_ROWS = 4  # tiles of more rows do not wait for memory


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
        """Return this tile for weights that lie in the caches."""
        return replace(self, cold=False)

    @property
    def width(self) -> int:
        """Return the outputs in the tile."""
        return 16 * self.columns

    @property
    def acc_bytes(self) -> int:
        """Return the bytes of the tile's sums in memory, four per sum."""
        return 4 * self.rows * self.width

    @property
    def span_bytes(self) -> int:
        """Return the bytes of the scales of eight groups, one per output each."""
        return 4 * 8 * self.width

    @property
    def lanes(self) -> int:
        """Return the outputs in one register."""
        return ISAS[self.isa].lanes

    @property
    def inputs(self) -> int:
        """Return the inputs in one step of K."""
        return DECODERS[self.format].inputs


def accumulators(tile: Tile) -> tuple[Isa, int, int]:
    """Return the instruction set, the vectors of a row, and the bit planes with accumulators of their own.

    With few rows few share an unpacked code, so codes stay where they lie in their bytes (4^j times themselves) and
    each bit plane sums apart, as far as there are registers for that: three operations less a vector of weights.
    """
    isa = ISAS[tile.isa]
    vectors, planes = tile.columns * vectors_per_group(isa), len(DECODERS[tile.format].scales(isa))
    return isa, vectors, planes if tile.rows * vectors * planes <= isa.registers else 1


def registers_type(tile: Tile) -> RegistersType:
    """Return the type of a tile's accumulators."""
    isa, vectors, planes = accumulators(tile)
    return RegistersType(isa.name, tile.rows * vectors * planes)


@intrinsic
def zero(typingctx, tile):
    """Return the registers of a tile, all zero."""
    kind = registers_type(tile.value)
    return kind(tile), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


def order(tile: Tile, vectors: int) -> Iterator[tuple[int, int, int]]:
    """Yield vectors of weights, fours of inputs and rows in the order in which a step multiplies them.

    One row: vector by vector, so that prefetches are spread out. More: all vectors by one x, which is then done with.
    """
    fours = tile.inputs // 4
    if tile.rows == 1:
        yield from product(range(vectors), range(fours), range(1))
    else:
        yield from ((v, j, r) for j, r, v in product(range(fours), range(tile.rows), range(vectors)))


def unpack(builder, tile: Tile, w: ir.Value, number: int, in_place: bool) -> list[ir.Value]:
    """Emit the codes of vector `number` of a step at address w, each of 4 inputs; ask for weights further on."""
    isa, place = ISAS[tile.isa], 4 * ISAS[tile.isa].lanes * number
    if tile.rows <= PREFETCHING_ROWS and place % GROUP_BYTES == 0:
        prefetch_weights(builder, w, place, tile.cold)
    return DECODERS[tile.format].codes(builder, isa, load(builder, w, place, isa.vector), in_place=in_place)


@intrinsic
def step(typingctx, tile, registers, x, x_stride, w):
    """Add one step of K to registers: codes at address w times x at address x, whose rows are x_stride bytes apart."""
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


def merged(builder, tile: Tile, registers: ir.Value, number: int) -> ir.Value:
    """Emit the sum of the bit planes of accumulator `number`."""
    isa, _, planes = accumulators(tile)
    total = builder.extract_value(registers, number * planes)
    for plane, scale in enumerate(DECODERS[tile.format].scales(isa)[1:planes], 1):
        part = builder.extract_value(registers, number * planes + plane)
        shift = splat_constant(isa.vector, scale.bit_length() - 1)
        total = builder.add(total, builder.ashr(part, shift) if scale > 1 else part)
    return total


@intrinsic
def spill(typingctx, tile, registers, acc):
    """Write a tile's sums to address acc, int32 (rows, 16 * columns)."""
    isa, vectors, _ = accumulators(tile.value)

    def codegen(context, builder, signature, args):
        _, registers, acc = args
        for i in range(tile.value.rows * vectors):
            total = merged(builder, tile.value, registers, i)
            builder.store(total, at(builder, acc, 4 * isa.lanes * i, isa.vector), align=4)
        return context.get_dummy_value()

    return types.void(tile, registers, types.int64), codegen


@jit
def accumulate(tile, x, x_stride, w, steps, acc):
    """Multiply codes of `steps` steps of K at address w by x; store int32 sums (rows, 16 * columns) at address acc."""
    registers = zero(tile)
    for s in range(steps):
        registers = step(tile, registers, x + s * tile.inputs, x_stride, w + s * STEP_BYTES)
    spill(tile, registers, acc)
