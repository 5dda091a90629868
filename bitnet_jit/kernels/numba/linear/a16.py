"""`bit_linear` with floating-point activations (A16): weights become -1, 0, 1 in registers, sums run in float32.

    y = (sum of x * w_q) * w_scale + bias;   with group scales: the sum over groups of (sum of the group) * its w_scale

Products are exact. Sums run over parts of 32 steps of K (or a group), then over the parts: the error grows slowly
with K.
"""

from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.decode import DECODERS
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, load_float32, store_float32
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I64, at, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, chosen_isa
from bitnet_jit.kernels.numba.intrinsics.pointers import stack_space
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType, vectors_per_group
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.layout import BLOCK, INPUTS_OF_LAYOUT, STEP_BYTES
from bitnet_jit.kernels.numba.linear.epilogue import clear, finish_floats
from bitnet_jit.kernels.numba.linear.launch import works_on
from bitnet_jit.kernels.numba.linear.tile import Tile
from bitnet_jit.kernels.numba.linear.tiled import bind
from bitnet_jit.kernels.numba.threads.parallel import done, draw, member, next_piece, ranges_of, wait
from bitnet_jit.kernels.numba.threads.team import every, likely
from bitnet_jit.problem import Problem

PART = 32  # steps of K in one partial sum
FUSE = ("contract",)


@intrinsic
def zero_sums(typingctx, tile):
    """Return the float sums of a tile, all zero, as the bits of integer registers."""
    isa = ISAS[tile.value.isa]
    kind = RegistersType(isa.name, tile.value.rows * tile.value.columns * vectors_per_group(isa))
    return kind(tile), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


@intrinsic
def add_products(typingctx, tile, registers, x, x_stride, w):
    """Add one step of K to sums: x (float32, rows x_stride bytes apart) times the weights at address w."""
    config, isa = tile.value, ISAS[tile.value.isa]
    decoder, vectors = DECODERS[config.format], config.columns * vectors_per_group(isa)
    floats = ir.VectorType(F32, isa.lanes)

    def weight(builder, codes, byte):
        code = builder.lshr(codes, splat_constant(isa.vector, 8 * byte)) if byte else codes
        code = builder.and_(code, splat_constant(isa.vector, 3))
        return builder.sitofp(builder.sub(code, splat_constant(isa.vector, 1)), floats)

    def codegen(context, builder, signature, args):
        _, registers, x, x_stride, w = args
        count = registers.type.count
        sums = [builder.bitcast(builder.extract_value(registers, i), floats) for i in range(count)]
        rows = [builder.add(x, builder.mul(x_stride, ir.Constant(I64, r))) for r in range(config.rows)]
        packed = [load(builder, w, 4 * isa.lanes * v, isa.vector) for v in range(vectors)]
        codes = [decoder.codes(builder, isa, p, in_place=False) for p in packed]
        for k in range(decoder.inputs):
            weights = [weight(builder, codes[v][k // 4], k % 4) for v in range(vectors)]
            for r, row in enumerate(rows):
                value = splat(builder, load(builder, row, 4 * k, F32), floats)
                for v in range(vectors):
                    i = r * vectors + v
                    sums[i] = builder.fadd(sums[i], builder.fmul(value, weights[v], flags=FUSE), flags=FUSE)
        for i, total in enumerate(sums):
            registers = builder.insert_value(registers, builder.bitcast(total, isa.vector), i)
        return registers

    return registers(tile, registers, types.int64, types.int64, types.int64), codegen


@intrinsic
def spill_sums(typingctx, tile, registers, acc):
    """Write a tile's sums to address acc, float32 (rows, 16 * columns)."""
    isa = ISAS[tile.value.isa]

    def codegen(context, builder, signature, args):
        _, registers, acc = args
        for i in range(registers.type.count):
            value = builder.extract_value(registers, i)
            builder.store(value, at(builder, acc, 4 * isa.lanes * i, isa.vector), align=4)
        return context.get_dummy_value()

    return types.void(tile, registers, types.int64), codegen


@dataclass(frozen=True)
class FloatTile(Tile):
    """A register tile whose sums are float32."""


@jit
def prepare(spec, job):
    """Store rows of x as float32, zero beyond K: the first phase of a team."""
    piece = draw(job.counters)
    while piece < job.rows:
        row = job.x_q + piece * job.x_stride
        for i in range(job.in_features):
            store_float32(row, i, load_float(spec.x_dtype, job.x, piece * job.in_features + i))
        clear(row + 4 * job.in_features, job.x_stride // 4 - job.in_features)
        done(job.counters)
        piece = draw(job.counters)
    wait(job.counters, job.rows)


@jit
def add_group(spec, job, acc, sums, part, output, count):
    """Add acc times the scale of group number `part` to the sums of one row."""
    for c in range(count):
        scale = load_float32(job.w_scale, (output + c) * job.groups + part)
        store_float32(sums, c, load_float32(sums, c) + load_float32(acc, c) * scale)


@jit
def add_sums(spec, job, acc, sums, part, output, count):
    """Add acc to the sums of one row."""
    for c in range(count):
        store_float32(sums, c, load_float32(sums, c) + load_float32(acc, c))


add_part = one_of(lambda spec: add_group if spec.grouped else add_sums)


@jit
def scale_outputs(job, sums, output, count):
    """Multiply the sums of one row by w_scale, of the tensor or of each output."""
    for c in range(count):
        scale = load_float32(job.w_scale, (output + c) * job.scale_stride)
        store_float32(sums, c, load_float32(sums, c) * scale)


@jit
def multiply_tile(spec, job, first_row, w, output, count):
    """Compute a tile of rows first_row.. by `count` outputs from number `output`, whose codes begin at address w."""
    tile = spec.tile
    acc, sums = stack_space(tile, "acc_bytes"), stack_space(tile, "acc_bytes")
    clear(sums, tile.rows * tile.width)
    steps = (job.in_features + tile.inputs - 1) // tile.inputs
    part_steps = job.group_size // tile.inputs if spec.grouped else PART
    x = job.x_q + first_row * job.x_stride
    for part in range((steps + part_steps - 1) // part_steps):
        registers = zero_sums(tile)
        for s in range(part * part_steps, least((part + 1) * part_steps, steps)):
            registers = add_products(tile, registers, x + s * tile.inputs * 4, job.x_stride, w + s * STEP_BYTES)
        spill_sums(tile, registers, acc)
        for r in range(tile.rows):
            add_part(spec, job, acc + 4 * tile.width * r, sums + 4 * tile.width * r, part, output, count)
    for r in range(tile.rows):
        row, values = first_row + r, sums + 4 * tile.width * r
        if not spec.grouped:
            scale_outputs(job, values, output, count)
        finish_floats(spec, job, values, row, output, count)


@works_on(FloatTile)
@jit
def work(spec, job):
    """Run the parallel body: prepare rows, then draw strips of outputs."""
    tile = spec.tile
    prepare(spec, job)
    steps = (job.in_features + tile.inputs - 1) // tile.inputs
    strips = (job.out_features + tile.width - 1) // tile.width
    home, ranges = member(job.fork, job.counters) % ranges_of(job.threads), ranges_of(job.threads)
    strip, offset = next_piece(job.counters, home, 0, ranges, strips)
    while strip >= 0:
        output = strip * tile.width
        w = job.w + output // BLOCK * steps * STEP_BYTES + output % BLOCK * 4
        count = least(tile.width, job.out_features - output)
        for row in range(0, job.rows, tile.rows):
            multiply_tile(spec, job, least(row, job.rows - tile.rows), w, output, count)
        strip, offset = next_piece(job.counters, home, offset, ranges, strips)


def tiles(problem: Problem) -> tuple[FloatTile, ...]:
    """Return tiles that fit the registers, the likeliest best first."""
    isa, format = chosen_isa(), problem.layout.partition("/")[0]
    heights = (1,) if problem.rows == 1 else (8, 4, 2)
    fitting = [h for h in heights if h * vectors_per_group(isa) <= isa.registers] or [1]
    return tuple(FloatTile(isa.name, format, rows, 1) for rows in fitting)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, in words, or None."""
    if problem.layout not in INPUTS_OF_LAYOUT:
        return f"reads the layouts {', '.join(INPUTS_OF_LAYOUT)}, not {problem.layout!r}"
    if problem.activation != "a16":
        return "serves activation='a16'"
    step = INPUTS_OF_LAYOUT[problem.layout]
    if problem.scale == "group" and problem.group_size % step:
        return f"takes groups of a multiple of {step} inputs in layout {problem.layout!r}, not {problem.group_size}"
    return None


KERNELS = (Kernel("numba.bit_linear_a16", "bit_linear", bind, likely(tiles), unsupported_reason, every(tiles)),)
