"""One step of K of a tile: 64 bytes of some rows of the head times as many inputs of some rows of x.

    floats   acc = fma(x, w, acc) in float32; x lies as the widened halves of the head need it (`job.prepare_floats`)
    int8     two exact int32 sums per output, of the upper and the lower halves of x's codes

Of bfloat16, 32 bits hold an even and an odd element: both are widened by one operation, a shift and a mask.
"""

from collections.abc import Iterator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.head.tile import FLOATS, LANES, QUAD, STEP_BYTES, HeadTile, SumsType, add_up, isa_of
from bitnet_jit.kernels.numba.intrinsics.elements import load_elements
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, I64, at, call, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import machine, target_features
from bitnet_jit.kernels.numba.intrinsics.prefetch import prefetch
from bitnet_jit.kernels.numba.intrinsics.signed_dot import signed_dot4, signed_weights

WORDS = ir.VectorType(I32, LANES)
UPPER = 0xFFFF0000  # the odd one of two bfloat16
FIRST_CACHE = 3  # where a prefetched line comes: into the second cache it is slower


def has_fma() -> bool:
    """Return whether a multiply-add is one instruction; elsewhere LLVM would call a function that nobody links."""
    return "fma" in target_features() or machine().lower() in ("aarch64", "arm64")


def multiply_add(builder, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
    """Emit a * b + total, rounded once where the CPU can."""
    if has_fma():
        return call(builder, f"llvm.fma.v{a.type.count}f32", a.type, a, b, total)
    return builder.fadd(total, builder.fmul(a, b))


def widened(builder, dtype: str, w: ir.Value) -> list[ir.Value]:
    """Emit the 64 bytes at address w as vectors of 16 floats: of bfloat16 the even ones, then the odd ones."""
    if dtype == "bfloat16":
        words = load(builder, w, 0, WORDS)
        even = builder.shl(words, splat_constant(WORDS, 16))
        odd = builder.and_(words, splat_constant(WORDS, UPPER))
        return [builder.bitcast(half, FLOATS) for half in (even, odd)]
    parts = 1 if dtype == "float32" else 2
    return [load_elements(builder, dtype, w, ir.Constant(I64, LANES * part), LANES) for part in range(parts)]


def strided(builder, address: ir.Value, stride: ir.Value, count: int) -> list[ir.Value]:
    """Emit addresses, `stride` bytes apart."""
    return [builder.add(address, builder.mul(stride, ir.Constant(I64, i))) for i in range(count)]


def add_floats(builder, tile: HeadTile, sums: list[ir.Value], rows: list[ir.Value], heads: list[ir.Value]) -> None:
    """Emit a step of floats, from addresses of rows of x and of the head."""
    weights = [widened(builder, tile.w_dtype, head) for head in heads]
    for part in range(len(weights[0])):
        for r, row in enumerate(rows):
            x = load(builder, row, 4 * LANES * part, FLOATS)
            for n in range(tile.outputs):
                i = r * tile.outputs + n
                sums[i] = multiply_add(builder, x, weights[n][part], sums[i])


def add_codes(
    builder, tile: HeadTile, sums: list[ir.Value], rows: list[ir.Value], heads: list[ir.Value], lower: ir.Value
) -> None:
    """Emit a step of int8; the lower halves of codes lie `lower` bytes behind the upper ones."""
    isa = isa_of(tile)
    for place in range(0, STEP_BYTES, 4 * isa.lanes):
        weights = [signed_weights(builder, isa, load(builder, head, place, isa.vector)) for head in heads]
        for r, row in enumerate(rows):
            for half, address in enumerate((row, builder.add(row, lower))):
                x = load(builder, address, place, isa.vector)
                for n in range(tile.outputs):
                    i = (r * tile.outputs + n) * 2 + half
                    sums[i] = signed_dot4(builder, isa, sums[i], weights[n], x)


@intrinsic
def zero_sums(typingctx, tile):
    """Return the sums of a tile, all zero."""
    kind = SumsType(tile.value)
    return kind(tile), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


@intrinsic
def load_sums(typingctx, tile, place):
    """Return the sums of a tile that `store_sums` wrote to an address."""
    kind = SumsType(tile.value)

    def codegen(context, builder, signature, args):
        sums = ir.Constant(kind.llvm, None)
        for i in range(tile.value.sums):
            value = load(builder, args[1], tile.value.vector_bytes * i, tile.value.vector)
            sums = builder.insert_value(sums, value, i)
        return sums

    return kind(tile, types.int64), codegen


@intrinsic
def store_sums(typingctx, tile, sums, place):
    """Write the sums of a tile, lane by lane, to an address: tile.sums_bytes."""

    def codegen(context, builder, signature, args):
        _, sums, place = args
        for i in range(tile.value.sums):
            value = builder.extract_value(sums, i)
            builder.store(value, at(builder, place, tile.value.vector_bytes * i, value.type), align=4)
        return context.get_dummy_value()

    return types.void(tile, sums, types.int64), codegen


@intrinsic
def add_products(typingctx, tile, sums, x, x_stride, lower, w, w_stride, ahead):
    """Add one step of K to sums.

    Args:
        tile: static.
        sums: of `zero_sums`.
        x: the address of the first row's inputs of this step; rows are x_stride bytes apart.
        lower: bytes from the upper to the lower halves of codes.
        w: the address of the first row of the head at this step; rows are w_stride bytes apart.
        ahead: the address of as many bytes of the head, which are needed later and asked for now.
    """
    config: HeadTile = tile.value

    def codegen(context, builder, signature, args):
        _, sums, x, x_stride, lower, w, w_stride, ahead = args
        values = [builder.extract_value(sums, i) for i in range(config.sums)]
        rows, heads = strided(builder, x, x_stride, config.rows), strided(builder, w, w_stride, config.outputs)
        for n in range(config.outputs):
            prefetch(builder, ahead, STEP_BYTES * n, FIRST_CACHE)
        if config.is_int8:
            add_codes(builder, config, values, rows, heads, lower)
        else:
            add_floats(builder, config, values, rows, heads)
        for i, value in enumerate(values):
            sums = builder.insert_value(sums, value, i)
        return sums

    number = types.int64
    return sums(tile, sums, number, number, number, number, number, number), codegen


def quads(tile: HeadTile, values: list[ir.Value]) -> Iterator[tuple[int, int, list[ir.Value]]]:
    """Yield row, place among a row's outputs, and the sums of a quad of one half, filled up with zeros."""
    for r in range(tile.rows):
        for half in range(tile.halves):
            of_row = [values[(r * tile.outputs + n) * tile.halves + half] for n in range(tile.outputs)]
            of_row += [ir.Constant(tile.vector, None)] * (tile.width - tile.outputs)
            for n in range(0, tile.width, QUAD):
                yield r, n, of_row[n : n + QUAD]


def exact_total(builder, upper: ir.Value, lower: ir.Value) -> ir.Value:
    """Emit float32(128 * upper + lower) of int32 lanes, rounded once: below 2^38 float64 is exact."""
    doubles = ir.VectorType(ir.DoubleType(), QUAD)
    upper, lower = (builder.sitofp(half, doubles) for half in (upper, lower))
    total = builder.fadd(builder.fmul(upper, splat_constant(doubles, 128.0)), lower)
    return builder.fptrunc(total, ir.VectorType(F32, QUAD))


@intrinsic
def spill_sums(typingctx, tile, sums, offsets, acc):
    """Add up the lanes of a tile's sums and write them to address acc, float32 (rows, width).

    `offsets` is the address of what the sums of codes are too large by, int32 (rows, 2); floats have none.
    """
    config: HeadTile = tile.value

    def codegen(context, builder, signature, args):
        _, sums, offsets, acc = args
        values = [builder.extract_value(sums, i) for i in range(config.sums)]
        add = builder.add if config.is_int8 else builder.fadd
        totals: dict[tuple[int, int], list[ir.Value]] = {}
        for r, n, quad in quads(config, values):
            totals.setdefault((r, n), []).append(add_up(builder, quad, add))
        for (r, n), halves in totals.items():
            if config.is_int8:
                excess = [load(builder, offsets, 4 * (2 * r + half), I32) for half in range(2)]
                exact = [builder.sub(a, splat(builder, b, a.type)) for a, b in zip(halves, excess, strict=True)]
                total = exact_total(builder, *exact)
            else:
                (total,) = halves
            builder.store(total, at(builder, acc, 4 * (r * config.width + n), total.type), align=4)
        return context.get_dummy_value()

    return types.void(tile, sums, types.int64, types.int64), codegen
