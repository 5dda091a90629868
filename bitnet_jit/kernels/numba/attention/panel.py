"""One register tile of a product of float32: rows of A by columns of B, whose sums stay in registers as k passes.

    sums[r, c] = sum over k in order of a[r, k] * b[k, c], each step one fused multiply-add

A is float32, its rows some bytes apart; B is of the cache's dtype and becomes float32 as it is loaded. A sum depends on
its row of A and its column of B alone: not on the tile.
"""

from dataclasses import dataclass, replace

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES, load_elements
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I64, at, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.fused import multiply_add
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, Isa
from bitnet_jit.kernels.numba.intrinsics.prefetch import prefetch
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType

STEPS = 2  # of k that one call adds
LINE = 64  # bytes that a prefetch brings


@dataclass(frozen=True)
class Panel:
    """A register tile.

    Attributes:
        isa: name of the instruction set.
        dtype: of B.
        rows: rows of A.
        vectors: registers that hold its columns of B.
        asks: whether B comes from memory: bytes that will be needed are asked for.
        half: which half of the words of a piece its columns are, where it makes words of bytes.
    """

    isa: str
    dtype: str
    rows: int
    vectors: int
    asks: bool = False
    half: int = 0

    @property
    def set(self) -> Isa:
        """Return the instruction set."""
        return ISAS[self.isa]

    @property
    def width(self) -> int:
        """Return its columns of B."""
        return self.set.lanes * self.vectors

    @property
    def size(self) -> int:
        """Return the bytes of an element of B."""
        return ELEMENT_BYTES[self.dtype]

    @property
    def narrow(self) -> "Panel":
        """Return this tile with one register of columns."""
        return replace(self, vectors=1)

    @property
    def upper_half(self) -> "Panel":
        """Return this tile on the upper half of words."""
        return replace(self, half=1)

    @property
    def floats(self) -> ir.VectorType:
        """Return the type of a register."""
        return ir.VectorType(F32, self.set.lanes)


def unpacked(builder, panel: Panel, registers: ir.Value) -> list[ir.Value]:
    """Return the sums that registers hold, row by row."""
    count = panel.rows * panel.vectors
    return [builder.bitcast(builder.extract_value(registers, i), panel.floats) for i in range(count)]


def packed(builder, panel: Panel, registers: ir.Value, sums: list[ir.Value]) -> ir.Value:
    """Return registers that hold sums."""
    for i, total in enumerate(sums):
        registers = builder.insert_value(registers, builder.bitcast(total, panel.set.vector), i)
    return registers


def moved(builder, address: ir.Value, stride: ir.Value, times: int) -> ir.Value:
    """Emit the address some strides further."""
    return builder.add(address, builder.mul(stride, ir.Constant(I64, times))) if times else address


def columns_of(builder, panel: Panel, b: ir.Value) -> list[ir.Value]:
    """Emit the loads of one row of B as float32."""
    lanes = panel.set.lanes
    return [load_elements(builder, panel.dtype, b, ir.Constant(I64, v * lanes), lanes) for v in range(panel.vectors)]


@intrinsic
def zero_sums(typingctx, panel):
    """Return the sums of a tile, all zero."""
    kind = RegistersType(panel.value.isa, panel.value.rows * panel.value.vectors)
    return kind(panel), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


@intrinsic
def add_products(typingctx, panel, registers, a, a_stride, b, b_stride):
    """Add STEPS steps of k to sums: from address a on, rows a_stride bytes apart, and from b on, b_stride apart."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, registers, a, a_stride, b, b_stride = args
        sums = unpacked(builder, tile, registers)
        for k in range(STEPS):
            columns = columns_of(builder, tile, moved(builder, b, b_stride, k))
            for r in range(tile.rows):
                factor = splat(builder, load(builder, moved(builder, a, a_stride, r), 4 * k, F32), tile.floats)
                for v, column in enumerate(columns):
                    i = r * tile.vectors + v
                    sums[i] = multiply_add(builder, factor, column, sums[i])
        return packed(builder, tile, registers, sums)

    signature = (panel, registers, types.int64, types.int64, types.int64, types.int64)
    return registers(*signature), codegen


@intrinsic
def add_nonzero_products(typingctx, panel, registers, a, a_stride, b):
    """Add one step of k to the sums of rows where a is not zero; what b holds does not touch the others."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, registers, a, a_stride, b = args
        sums = unpacked(builder, tile, registers)
        columns, zero = columns_of(builder, tile, b), splat_constant(tile.floats, 0.0)
        for r in range(tile.rows):
            factor = splat(builder, load(builder, moved(builder, a, a_stride, r), 0, F32), tile.floats)
            counts = builder.fcmp_unordered("!=", factor, zero)
            for v, column in enumerate(columns):
                i = r * tile.vectors + v
                sums[i] = builder.select(counts, multiply_add(builder, factor, column, sums[i]), sums[i])
        return packed(builder, tile, registers, sums)

    return registers(panel, registers, types.int64, types.int64, types.int64), codegen


@intrinsic
def store_sums(typingctx, panel, registers, c, c_stride):
    """Write the sums to address c, float32, rows c_stride bytes apart."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, registers, c, c_stride = args
        for i, total in enumerate(unpacked(builder, tile, registers)):
            r, v = divmod(i, tile.vectors)
            place = at(builder, moved(builder, c, c_stride, r), 4 * tile.set.lanes * v, tile.floats)
            builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(panel, registers, types.int64, types.int64), codegen


@intrinsic
def join_sums(typingctx, panel, registers, c, c_stride, old, new):
    """Make c = c * old + sums * new, with float32 factors of each row at addresses old and new."""
    tile = panel.value

    def codegen(context, builder, signature, args):
        _, registers, c, c_stride, old, new = args
        factors = [
            tuple(splat(builder, load(builder, address, 4 * r, F32), tile.floats) for address in (old, new))
            for r in range(tile.rows)
        ]
        for i, total in enumerate(unpacked(builder, tile, registers)):
            r, v = divmod(i, tile.vectors)
            place = at(builder, moved(builder, c, c_stride, r), 4 * tile.set.lanes * v, tile.floats)
            kept = builder.fmul(builder.load(place, align=4), factors[r][0])
            builder.store(multiply_add(builder, total, factors[r][1], kept), place, align=4)
        return context.get_dummy_value()

    return types.void(panel, registers, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def load_sums(typingctx, panel, c):
    """Read the sums of one row from address c."""
    tile = panel.value
    assert tile.rows == 1
    kind = RegistersType(tile.isa, tile.vectors)

    def codegen(context, builder, signature, args):
        places = [at(builder, args[1], 4 * tile.set.lanes * v, tile.floats) for v in range(tile.vectors)]
        sums = [builder.load(place, align=4) for place in places]
        return packed(builder, tile, ir.Constant(kind.llvm, ir.Undefined), sums)

    return kind(panel, types.int64), codegen


@intrinsic
def ask_for(typingctx, panel, address):
    """Ask for as many bytes from an address on as STEPS steps take of B."""
    num_bytes = STEPS * panel.value.width * panel.value.size

    def codegen(context, builder, signature, args):
        for offset in range(0, num_bytes, LINE):
            prefetch(builder, args[1], offset, 3)
        return context.get_dummy_value()

    return types.void(panel, types.int64), codegen


@jit
def multiply_only(panel, a, a_stride, b, b_stride, steps, ahead):
    """Return the sums of a tile over `steps` steps of k, an even number."""
    sums = zero_sums(panel)
    for k in range(0, steps, STEPS):
        sums = add_products(panel, sums, a + 4 * k, a_stride, b + k * b_stride, b_stride)
    return sums


@jit
def multiply_and_ask(panel, a, a_stride, b, b_stride, steps, ahead):
    """Return the same, and ask for as many bytes from address `ahead` on as are loaded."""
    sums = zero_sums(panel)
    for k in range(0, steps, STEPS):
        ask_for(panel, ahead + k * panel.width * panel.size)
        sums = add_products(panel, sums, a + 4 * k, a_stride, b + k * b_stride, b_stride)
    return sums


multiply = one_of(lambda panel: multiply_and_ask if panel.asks else multiply_only)
