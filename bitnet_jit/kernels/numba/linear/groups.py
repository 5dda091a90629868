"""The product of a register tile with one scale per group of inputs: integers within a group, floats between groups.

    a8    y = (sum over groups, ascending, of float32(acc of the group) * w_scale) * x_scale + bias
    a8g   y =  sum over groups, ascending, of float32(acc of the group) * (x_scale * w_scale), both of the group, + bias

Each product and each sum rounds by itself, so y of a row is the same in every tile. The integer sums of a group stay in
registers; they begin at -(sum of x_q), which takes the codes w + 1 back to w. The float sums stay in the first cache.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, I64, at, load, splat
from bitnet_jit.kernels.numba.intrinsics.pointers import stack_space
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.layout import STEP_BYTES
from bitnet_jit.kernels.numba.linear.epilogue import clear, finish_floats, scale_row
from bitnet_jit.kernels.numba.linear.scales import SPAN, ask_for_scales, load_scales
from bitnet_jit.kernels.numba.linear.tile import accumulators, merged, registers_type, step


@intrinsic
def begin_group(typingctx, tile, x_sum, stride):
    """Return a tile's registers at the negative sums of x of each row's group: int32 at x_sum, rows `stride` apart."""
    isa, vectors, planes = accumulators(tile.value)
    kind = registers_type(tile.value)

    def codegen(context, builder, signature, args):
        _, x_sum, stride = args
        registers = ir.Constant(kind.llvm, None)
        for r in range(tile.value.rows):
            row = builder.add(x_sum, builder.mul(stride, ir.Constant(I64, r)))
            total = splat(builder, load(builder, row, 0, I32), isa.vector)
            for v in range(vectors):
                registers = builder.insert_value(registers, total, (r * vectors + v) * planes)
        return registers

    return kind(tile, types.int64, types.int64), codegen


@intrinsic
def end_group(typingctx, spec, registers, scales, x_scale, stride, sums):
    """Add float32(registers) * scales to the sums at an address, float32 (rows, 16 * columns).

    scales is the address of a float32 per output; with spec.x_grouped each is multiplied by its row's before, at
    address x_scale, rows `stride` bytes apart.
    """
    tile = spec.value.tile
    isa, vectors, _ = accumulators(tile)
    floats = ir.VectorType(F32, isa.lanes)

    def codegen(context, builder, signature, args):
        _, registers, scales, x_scale, stride, sums = args
        by_output = [load(builder, scales, 4 * isa.lanes * v, floats) for v in range(vectors)]
        for r in range(tile.rows):
            factors = by_output
            if spec.value.x_grouped:
                row = builder.add(x_scale, builder.mul(stride, ir.Constant(I64, r)))
                of_row = splat(builder, load(builder, row, 0, F32), floats)
                factors = [builder.fmul(of_row, scale) for scale in by_output]
            for v in range(vectors):
                number = r * vectors + v
                value = builder.sitofp(merged(builder, tile, registers, number), floats)
                place = at(builder, sums, 4 * isa.lanes * number, floats)
                total = builder.fadd(builder.load(place, align=4), builder.fmul(value, factors[v]))
                builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(spec, registers, *(types.int64,) * 4), codegen


@jit
def scale_rows(spec, job, first_row, sums, count):
    """Multiply the sums of each row by its scale."""
    for r in range(spec.tile.rows):
        scale_row(sums + 4 * spec.tile.width * r, load_float32(job.x_scale, first_row + r), count)


@jit
def leave_rows(spec, job, first_row, sums, count):
    """Leave sums as they are: scales of x have come in group by group."""


end_sums = one_of(lambda spec: leave_rows if spec.x_grouped else scale_rows)


@jit
def add_group(spec, tile, job, x, w, group, begin, x_sum, x_scale, scales, sums):
    """Add a group's products to the sums; `begin` is the first group whose scales are in the buffer."""
    stride, steps = 4 * job.groups, (job.in_features + tile.inputs - 1) // tile.inputs
    group_steps = job.group_size // tile.inputs
    registers = begin_group(tile, x_sum + 4 * group, stride)
    for s in range(group * group_steps, least((group + 1) * group_steps, steps)):
        registers = step(tile, registers, x + s * tile.inputs, job.x_stride, w + s * STEP_BYTES)
    end_group(spec, registers, scales + (group - begin) * 4 * tile.width, x_scale + 4 * group, stride, sums)


@jit
def multiply_by_groups(spec, job, first_row, w, output, count, cold):
    """Compute a tile of rows first_row.. by `count` outputs from number `output`, whose codes begin at address w."""
    tile = spec.tile
    sums, scales = stack_space(tile, "acc_bytes"), stack_space(tile, "span_bytes")
    clear(sums, tile.rows * tile.width)
    x, stride = job.x_q + first_row * job.x_stride, 4 * job.groups
    x_sum, x_scale = job.x_sum + first_row * stride, job.x_scale + first_row * stride
    for first in range(0, job.groups, SPAN):
        begin = most(0, least(first, job.groups - SPAN))
        load_scales(tile, job.w_scale, job.groups, job.out_features, output, begin, scales)
        for group in range(first, least(first + SPAN, job.groups)):
            ask_for_scales(tile, job.w_scale, job.groups, output, group, cold)
            if cold:
                add_group(spec, tile, job, x, w, group, begin, x_sum, x_scale, scales, sums)
            else:
                add_group(spec, tile.hot, job, x, w, group, begin, x_sum, x_scale, scales, sums)
    end_sums(spec, job, first_row, sums, count)
    for r in range(tile.rows):
        finish_floats(spec, job, sums + 4 * tile.width * r, first_row + r, output, count)
