"""`bit_linear` with floating-point activations (A16): sums of x, -x and 0 in float32.

    y = (sum over parts of the sum of x * w_q) * w_scale + bias
    y =  sum over parts of (sum of x * w_q) * w_scale of the group + bias                      with group scales

A part is the next 160 inputs, or those up to the end of the group. Parts are added in ascending order, the inputs of a
part as `float_tile.py` has it, each sum and product rounded: a row's y is the same in every tile and batch.

Few rows: tables of all inputs are made once, then weights stream through. More rows: the tables of a part stay in the
first cache while a range of outputs passes, whose sums wait in memory.
"""

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, load_float32, store_float32
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa
from bitnet_jit.kernels.numba.intrinsics.pointers import stack_space
from bitnet_jit.kernels.numba.intrinsics.registers import vectors_per_group
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.layout import BLOCK, INPUTS_OF_LAYOUT, STEP_BYTES
from bitnet_jit.kernels.numba.linear.epilogue import clear, finish_floats
from bitnet_jit.kernels.numba.linear.float_tile import FloatTile, add_step, end_part, make_tables, zero_sums
from bitnet_jit.kernels.numba.linear.launch import works_on
from bitnet_jit.kernels.numba.linear.scales import SPAN, load_scales
from bitnet_jit.kernels.numba.linear.sizes import TABLED_ROWS
from bitnet_jit.kernels.numba.linear.tiled import PIECES_PER_THREAD, bind
from bitnet_jit.kernels.numba.threads.parallel import done, draw, member, next_piece, ranges_of, wait
from bitnet_jit.kernels.numba.threads.team import every, likely
from bitnet_jit.problem import Problem


@jit
def steps_of(tile, inputs):
    """Return the steps of K that hold so many inputs."""
    return (inputs + tile.inputs - 1) // tile.inputs


@jit
def add_tables(tile, x, steps, tables):
    """Write the tables of steps of K of the float32 at address x."""
    for s in range(steps):
        make_tables(tile, x + s * 4 * tile.inputs, tables + s * tile.operand_bytes)


@jit
def tables_of_all(job):
    """Return the address of tables of all inputs: behind the rows of x."""
    return job.x_q + (job.rows + 31) // 32 * 32 * job.x_stride


@jit
def prepare(spec, job):
    """Store rows of x as float32, zero beyond K, and tables if the rows are few: the first phase of a team."""
    piece, steps = draw(job.counters), steps_of(spec.tile, job.in_features)
    while piece < job.rows:
        row = job.x_q + piece * job.x_stride
        for i in range(job.in_features):
            store_float32(row, i, load_float(spec.x_dtype, job.x, piece * job.in_features + i))
        clear(row + 4 * job.in_features, job.x_stride // 4 - job.in_features)
        if spec.tile.looks_up and job.rows <= spec.tile.rows:
            add_tables(spec.tile, row, steps, tables_of_all(job) + piece * steps * spec.tile.operand_bytes)
        done(job.counters)
        piece = draw(job.counters)
    wait(job.counters, job.rows)


@jit
def load_group_scales(spec, job, output, first, buffer):
    """Write scales of groups to the buffer."""
    load_scales(spec.tile, job.w_scale, job.groups, job.out_features, output, first, buffer)


@jit
def load_no_scales(spec, job, output, first, buffer):
    """Leave the buffer: there is one scale per output or per tensor."""


load_some_scales = one_of(lambda spec: load_group_scales if spec.grouped else load_no_scales)


@jit
def add_part(spec, tile, x, x_stride, w, ahead, steps, scales, sums):
    """Add a part of K to sums: x of its first step at address x, codes at address w.

    Ask for the codes that come next, or with a tile that is hot for those `ahead` bytes on.
    """
    registers = zero_sums(tile)
    for s in range(steps):
        registers = add_step(tile, registers, x + s * tile.operand_bytes, x_stride, w + s * STEP_BYTES, ahead)
    end_part(spec, registers, scales, sums)


@jit
def scale_outputs(job, sums, output, count):
    """Multiply the sums of one row by w_scale, of the tensor or of each output."""
    for c in range(count):
        scale = load_float32(job.w_scale, (output + c) * job.scale_stride)
        store_float32(sums, c, load_float32(sums, c) * scale)


@jit
def finish_tile(spec, job, sums, first_row, output, count):
    """Turn the sums of a tile into y."""
    for r in range(spec.tile.rows):
        values = sums + 4 * spec.tile.width * r
        if not spec.grouped:
            scale_outputs(job, values, output, count)
        finish_floats(spec, job, values, first_row + r, output, count)


@jit
def multiply_tile(spec, job, first_row, x, x_stride, w, output, count):
    """Compute a tile of rows first_row.. by `count` outputs from number `output`, whose codes begin at address w."""
    tile = spec.tile
    sums, scales = stack_space(tile, "acc_bytes"), stack_space(tile, "span_bytes")
    clear(sums, tile.rows * tile.width)
    steps, group_steps = steps_of(tile, job.in_features), steps_of(tile, job.group_size)
    for first in range(0, job.groups, SPAN):
        begin = most(0, least(first, job.groups - SPAN))
        load_some_scales(spec, job, output, begin, scales)
        for group in range(first, least(first + SPAN, job.groups)):
            last = least((group + 1) * group_steps, steps)
            for s in range(group * group_steps, last, tile.part_steps):
                part, place = least(tile.part_steps, last - s), scales + (group - begin) * 4 * tile.width
                add_part(spec, tile, x + s * tile.operand_bytes, x_stride, w + s * STEP_BYTES, 0, part, place, sums)
    finish_tile(spec, job, sums, first_row, output, count)


@jit
def work_on_strips(spec, job):
    """Draw strips of outputs; each passes all rows, in tables if there is one tile of them."""
    tile = spec.tile
    steps = steps_of(tile, job.in_features)
    x, x_stride = job.x_q, job.x_stride
    if tile.looks_up:
        x, x_stride = tables_of_all(job), steps * tile.operand_bytes
    strips = (job.out_features + tile.width - 1) // tile.width
    home, ranges = member(job.fork, job.counters) % ranges_of(job.threads), ranges_of(job.threads)
    strip, offset = next_piece(job.counters, home, 0, ranges, strips)
    while strip >= 0:
        output = strip * tile.width
        w = job.w + output // BLOCK * steps * STEP_BYTES + output % BLOCK * 4
        count = least(tile.width, job.out_features - output)
        for row in range(0, job.rows, tile.rows):
            first = least(row, job.rows - tile.rows)
            multiply_tile(spec, job, first, x + first * x_stride, x_stride, w, output, count)
        strip, offset = next_piece(job.counters, home, offset, ranges, strips)


@jit
def multiply_range(spec, job, first_row, first, last):
    """Compute a tile of rows by blocks first..last-1 of outputs, part by part of K."""
    tile = spec.tile
    tables, all_sums, all_scales = (
        stack_space(tile, "part_bytes"),
        stack_space(tile, "range_bytes"),
        stack_space(tile, "range_scales_bytes"),
    )
    clear(all_sums, (last - first) * tile.rows * tile.width)
    x = job.x_q + first_row * job.x_stride
    steps, group_steps = steps_of(tile, job.in_features), steps_of(tile, job.group_size)
    for span in range(0, job.groups, SPAN):
        begin = most(0, least(span, job.groups - SPAN))
        for block in range(first, last):
            load_some_scales(spec, job, block * BLOCK, begin, all_scales + (block - first) * tile.span_bytes)
        for group in range(span, least(span + SPAN, job.groups)):
            end = least((group + 1) * group_steps, steps)
            for s in range(group * group_steps, end, tile.part_steps):
                part = least(tile.part_steps, end - s)
                stride = part * tile.operand_bytes
                for r in range(tile.rows):
                    add_tables(tile, x + r * job.x_stride + s * 4 * tile.inputs, part, tables + r * stride)
                for block in range(first, last):
                    w = job.w + (block * steps + s) * STEP_BYTES
                    scales = all_scales + (block - first) * tile.span_bytes + (group - begin) * 4 * tile.width
                    sums = all_sums + (block - first) * tile.acc_bytes
                    add_part(spec, tile.hot, tables, stride, w, steps * STEP_BYTES, part, scales, sums)
    for block in range(first, last):
        count = least(BLOCK, job.out_features - block * BLOCK)
        finish_tile(spec, job, all_sums + (block - first) * tile.acc_bytes, first_row, block * BLOCK, count)


@jit
def work_on_ranges(spec, job):
    """Draw tiles of rows by ranges of blocks."""
    tile = spec.tile
    blocks, tiles = (job.out_features + BLOCK - 1) // BLOCK, (job.rows + tile.rows - 1) // tile.rows
    fewest = (blocks + tile.range_blocks - 1) // tile.range_blocks
    parts = least(blocks, most(fewest, PIECES_PER_THREAD * job.threads // tiles))
    home, ranges = member(job.fork, job.counters) % ranges_of(job.threads), ranges_of(job.threads)
    piece, offset = next_piece(job.counters, home, 0, ranges, tiles * parts)
    while piece >= 0:
        part, row = piece % parts, piece // parts * tile.rows
        first, last = blocks * part // parts, blocks * (part + 1) // parts
        multiply_range(spec, job, least(row, job.rows - tile.rows), first, last)
        piece, offset = next_piece(job.counters, home, offset, ranges, tiles * parts)


@works_on(FloatTile)
@jit
def work(spec, job):
    """Run the parallel body: prepare rows, then draw pieces."""
    prepare(spec, job)
    if spec.tile.looks_up and job.rows > spec.tile.rows:
        work_on_ranges(spec, job)
    else:
        work_on_strips(spec, job)


def tiles(problem: Problem) -> tuple[FloatTile, ...]:
    """Return tiles that fit the registers, the likeliest best first."""
    isa, format = chosen_isa(), problem.layout.partition("/")[0]
    if FloatTile(isa.name, format, 1, 4).looks_up:
        looking_up = [1] if problem.rows == 1 else [TABLED_ROWS, 2]
        return tuple(FloatTile(isa.name, format, rows, BLOCK // 16) for rows in looking_up)
    heights = [1] if problem.rows == 1 else [8, 4, 2]
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


KERNELS = (
    Kernel("numba.bit_linear_a16", "bit_linear", bind, likely(tiles), unsupported_reason, every(tiles), version=2),
)
