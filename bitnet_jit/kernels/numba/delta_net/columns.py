"""Some columns of a state S (dk, dv) in registers, row by row: products with keys and queries, and the update.

    p = S^T k, r = S^T q          row after row, each step one fused multiply-add
    u = (v - g p) beta,  y = g r + (k q) u,  S = g S + k u

which is the gated delta rule, with g taken out of the sums. A column depends on itself alone: not on the tile.
"""

from dataclasses import dataclass, replace

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.emit import F32, at, load, splat
from bitnet_jit.kernels.numba.intrinsics.fused import multiply_add
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType


@dataclass(frozen=True)
class Columns:
    """A tile of columns.

    Attributes:
        isa: name of the instruction set.
        vectors: registers that hold a row of it.
    """

    isa: str
    vectors: int

    @property
    def width(self) -> int:
        """Return its number of columns."""
        return ISAS[self.isa].lanes * self.vectors

    @property
    def narrow(self) -> "Columns":
        """Return a tile of one register."""
        return replace(self, vectors=1)

    @property
    def floats(self) -> ir.VectorType:
        """Return the type of a register."""
        return ir.VectorType(F32, ISAS[self.isa].lanes)

    def registers(self, rows: int) -> RegistersType:
        """Return the type of registers for some rows."""
        return RegistersType(self.isa, rows * self.vectors)


def unpacked(builder, tile: Columns, registers: ir.Value) -> list[ir.Value]:
    """Return the floats of registers."""
    return [builder.bitcast(builder.extract_value(registers, i), tile.floats) for i in range(registers.type.count)]


def packed(builder, tile: Columns, values: list[ir.Value]) -> ir.Value:
    """Return registers that hold floats."""
    kind = ir.ArrayType(ISAS[tile.isa].vector, len(values))
    registers = ir.Constant(kind, ir.Undefined)
    for i, value in enumerate(values):
        registers = builder.insert_value(registers, builder.bitcast(value, kind.element), i)
    return registers


def load_row(builder, tile: Columns, address: ir.Value) -> list[ir.Value]:
    """Emit the loads of a row."""
    return [load(builder, address, 4 * tile.width // tile.vectors * v, tile.floats) for v in range(tile.vectors)]


def store_row(builder, tile: Columns, address: ir.Value, row: list[ir.Value]) -> None:
    """Emit the stores of a row."""
    for v, value in enumerate(row):
        builder.store(value, at(builder, address, 4 * tile.width // tile.vectors * v, tile.floats), align=4)


def factor(builder, tile: Columns, address: ir.Value) -> ir.Value:
    """Emit the float32 at an address, in every lane."""
    return splat(builder, load(builder, address, 0, F32), tile.floats)


def with_row(builder, tile: Columns, sums: ir.Value, row: list[ir.Value], k: ir.Value, q: ir.Value) -> ir.Value:
    """Emit sums with a row of the state times the numbers at addresses k and q."""
    factors, values = [factor(builder, tile, address) for address in (k, q)], unpacked(builder, tile, sums)
    added = [multiply_add(builder, factors[i // tile.vectors], row[i % tile.vectors], a) for i, a in enumerate(values)]
    return packed(builder, tile, added)


def updated_row(builder, tile: Columns, source: ir.Value, target: ir.Value, k: ir.Value, u: ir.Value, g: ir.Value):
    """Emit g S + k u of a row at address source, with u in registers, and its store; return it."""
    fade, key = (factor(builder, tile, address) for address in (g, k))
    pairs = zip(load_row(builder, tile, source), unpacked(builder, tile, u), strict=True)
    row = [multiply_add(builder, key, change, builder.fmul(fade, old)) for old, change in pairs]
    store_row(builder, tile, target, row)
    return row


@intrinsic
def zero_sums(typingctx, tile):
    """Return p and r, all zero."""
    kind = tile.value.registers(2)
    return kind(tile), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


@intrinsic
def add_row(typingctx, tile, sums, source, k, q):
    """Add the row at address source, times the numbers at addresses k and q, to p and r."""

    def codegen(context, builder, signature, args):
        _, sums, source, k, q = args
        return with_row(builder, tile.value, sums, load_row(builder, tile.value, source), k, q)

    return sums(tile, sums, types.int64, types.int64, types.int64), codegen


@intrinsic
def update_row(typingctx, tile, u, source, target, k, g):
    """Write the row at address source to target, updated."""

    def codegen(context, builder, signature, args):
        _, u, source, target, k, g = args
        updated_row(builder, tile.value, source, target, k, u, g)
        return context.get_dummy_value()

    return types.void(tile, u, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def update_and_add_row(typingctx, tile, u, source, target, k, g, sums, next_k, next_q):
    """Do the same, and add the updated row, times the next token's numbers, to its p and r."""

    def codegen(context, builder, signature, args):
        _, u, source, target, k, g, sums, next_k, next_q = args
        row = updated_row(builder, tile.value, source, target, k, u, g)
        return with_row(builder, tile.value, sums, row, next_k, next_q)

    addresses = (types.int64,) * 4
    return sums(tile, u, *addresses, sums, types.int64, types.int64), codegen


@intrinsic
def correct(typingctx, tile, sums, v, g, beta, kq):
    """Return u, and write y over v; all but the sums are addresses."""
    kind = tile.value.registers(1)

    def codegen(context, builder, signature, args):
        _, sums, v, *factors = args
        fade, beta, kq = (factor(builder, tile.value, address) for address in factors)
        values, count = unpacked(builder, tile.value, sums), tile.value.vectors
        targets = load_row(builder, tile.value, v)
        rests = [builder.fsub(a, builder.fmul(fade, p)) for a, p in zip(targets, values[:count], strict=True)]
        u = [builder.fmul(rest, beta) for rest in rests]
        y = [multiply_add(builder, kq, a, builder.fmul(fade, r)) for a, r in zip(u, values[count:], strict=True)]
        store_row(builder, tile.value, v, y)
        return packed(builder, tile.value, u)

    return kind(tile, sums, types.int64, types.int64, types.int64, types.int64), codegen


@jit
def add_rows(tile, rows, source, stride, k, q):
    """Return p and r of a state whose rows lie `stride` bytes apart."""
    sums = zero_sums(tile)
    for i in range(rows):
        sums = add_row(tile, sums, source + i * stride, k + 4 * i, q + 4 * i)
    return sums


@jit
def update_rows(tile, rows, u, source, stride, target, target_stride, k, g):
    """Write a state, updated, to rows `target_stride` bytes apart, which may be its own."""
    for i in range(rows):
        update_row(tile, u, source + i * stride, target + i * target_stride, k + 4 * i, g)


@jit
def update_and_add_rows(tile, rows, u, source, stride, target, target_stride, k, g, next_k, next_q):
    """Do the same, and return p and r of the updated state for the next token."""
    sums = zero_sums(tile)
    for i in range(rows):
        row, new = source + i * stride, target + i * target_stride
        sums = update_and_add_row(tile, u, row, new, k + 4 * i, g, sums, next_k + 4 * i, next_q + 4 * i)
    return sums
