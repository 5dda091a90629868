"""`head_logits`: logits of any M, V and K by register tiles, from a head in memory or in the caches.

A piece of work is a block of the head's rows. Those of a tile stay in the first cache while the rows of x pass; floats
of more than two rows pass block by block of K, as they would not fit there beside them. A sum runs in one order
whatever the tile: lanes along K, then a fixed tree. So logits of a row depend on nothing but that row.
"""

from dataclasses import replace

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound, Entry, Operands, without
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel, one_of
from bitnet_jit.kernels.numba.head.job import ROWS_AT_ONCE, HeadJob, HeadSpec, places_of, prepare
from bitnet_jit.kernels.numba.head.products import add_products, load_sums, spill_sums, store_sums, zero_sums
from bitnet_jit.kernels.numba.head.tile import STEP_BYTES, HeadTile
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, load_int8, store_float32, store_int8
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa
from bitnet_jit.kernels.numba.intrinsics.pointers import stack_space
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.linear.tiled import balanced_rows
from bitnet_jit.kernels.numba.threads.parallel import member, next_piece, ranges_of, reset, run_team
from bitnet_jit.kernels.numba.threads.team import TeamConfig, every, likely
from bitnet_jit.problem import Problem

BLOCK = 48  # rows of the head in a piece of work
BLOCK_STEPS = 20  # of K, of bfloat16 640 inputs
UNBLOCKED_ROWS = 2  # rows of x that need no blocks of inputs
AHEAD = 8192  # bytes behind a tile, from which on memory is asked for
OPERANDS: Operands = ("x", "head", "head_scale", "logits")
RUN_SIGNATURE = (types.int64,) * 15


@jit
def copy_tail(w, w_stride, rows, count, tail):
    """Copy `count` bytes of some rows of the head to address tail, each filled up with zeros to 64 bytes."""
    for r in range(rows):
        for i in range(STEP_BYTES):
            value = np.int32(0)
            if i < count:
                value = load_int8(w + r * w_stride, i)
            store_int8(tail + r * STEP_BYTES, i, value)


@jit
def add_steps(tile, job, sums, row, w, w_stride, first, last, ahead, ahead_step):
    """Add steps first..last-1 of K to sums: rows of x from number `row` on by rows of the head from address w on.

    From address `ahead` on, memory is asked for: in each step of K as much as the tile has lines in one, ahead_step
    bytes further on.
    """
    x = job.x_q + row * job.x_stride
    for s in range(first, last):
        at, line = x + s * tile.x_step, ahead + (s - first) * ahead_step
        sums = add_products(tile, sums, at, job.x_stride, job.lower, w + s * STEP_BYTES, w_stride, line)
    return sums


@jit
def finish_tile(spec, job, sums, row, output, count, w, w_stride):
    """Add the inputs behind the last whole step to sums, and store `count` outputs of each row."""
    tile = spec.tile
    steps = job.in_features // tile.inputs
    rest = job.in_features - steps * tile.inputs
    if rest > 0:
        tail = stack_space(tile, "tail_bytes")
        copy_tail(w + steps * STEP_BYTES, w_stride, tile.outputs, rest * tile.w_bytes, tail)
        at = job.x_q + row * job.x_stride + steps * tile.x_step
        sums = add_products(tile, sums, at, job.x_stride, job.lower, tail, STEP_BYTES, tail)
    acc = stack_space(tile, "acc_bytes")
    spill_sums(tile, sums, job.offsets + 8 * row, acc)
    for r in range(tile.rows):
        write_row(spec, job, row + r, output, count, acc + 4 * tile.width * r)


@jit
def write_sums(spec, job, row, output, count, acc):
    """Store the sums at acc as `count` logits of a row from number `output` on."""
    for c in range(count):
        store_float32(job.y, row * job.out_features + output + c, load_float32(acc, c))


@jit
def write_scaled(spec, job, row, output, count, acc):
    """Store the sums at acc, times the scales of the row and of the head's rows."""
    x_scale = load_float32(job.x_scale, row)
    for c in range(count):
        scale = x_scale * load_float32(job.head_scale, output + c)
        store_float32(job.y, row * job.out_features + output + c, load_float32(acc, c) * scale)


write_row = one_of(lambda spec: write_scaled if spec.tile.is_int8 else write_sums)


@jit
def multiply_tile(spec, job, row, output, count, w_stride, ahead, ahead_step):
    """Compute a tile from row `row` and output `output` on, of which `count` outputs are stored."""
    tile = spec.tile
    w, steps = job.head + output * job.in_features * tile.w_bytes, job.in_features // tile.inputs
    sums = add_steps(tile, job, zero_sums(tile), row, w, w_stride, 0, steps, ahead, ahead_step)
    finish_tile(spec, job, sums, row, output, count, w, w_stride)


@jit
def multiply_at_once(spec, job, output, tiles, first_row, last_row):
    """Compute the outputs of a tile from number `output` on, for rows first_row..last_row-1, whose inputs pass once.

    The first rows of x ask for the outputs that come next, as evenly as their passes go.
    """
    tile = spec.tile
    w_stride = job.in_features * tile.w_bytes
    passes = (last_row - first_row + tile.rows - 1) // tile.rows
    ahead = job.head + (output + tile.outputs - 1) * w_stride + AHEAD
    ahead_step = tile.tail_bytes // passes
    if first_row > 0:
        ahead, ahead_step = job.head + output * w_stride, 0
    for row in range(first_row, last_row, tile.rows):
        multiply_tile(spec, job, least(row, last_row - tile.rows), output, tile.outputs, w_stride, ahead, ahead_step)
        ahead += ahead_step * (job.in_features // tile.inputs)


@jit
def multiply_in_blocks(spec, job, output, tiles, first_row, last_row):
    """Compute the outputs of some tiles from number `output` on, for rows first_row..last_row-1, block by block of K.

    A block of all rows stays in the first cache while the tiles pass, and their sums wait beside it.
    """
    tile = spec.tile
    kept, w_stride = stack_space(spec, "block_sums_bytes"), job.in_features * tile.w_bytes
    steps, passes = job.in_features // tile.inputs, (last_row - first_row + tile.rows - 1) // tile.rows
    first_w, ahead = job.head + output * w_stride, job.head + (output + tiles * tile.outputs) * w_stride + AHEAD
    ahead_step = tile.tail_bytes // passes
    for first in range(0, most(steps, 1), BLOCK_STEPS):
        last = least(first + BLOCK_STEPS, steps)
        for number in range(tiles * passes):
            row = least(first_row + number % passes * tile.rows, last_row - tile.rows)
            w = first_w + number // passes * tile.outputs * w_stride
            place = kept + number * tile.sums_bytes
            sums = zero_sums(tile)
            if first > 0:
                sums = load_sums(tile, place)
            sums = add_steps(tile, job, sums, row, w, w_stride, first, last, ahead, ahead_step)
            store_sums(tile, sums, place)
            ahead += (last - first) * ahead_step
    for number in range(tiles * passes):
        row = least(first_row + number % passes * tile.rows, last_row - tile.rows)
        first_output = output + number // passes * tile.outputs
        w, sums = job.head + first_output * w_stride, load_sums(tile, kept + number * tile.sums_bytes)
        finish_tile(spec, job, sums, row, first_output, tile.outputs, w, w_stride)


multiply_outputs = one_of(lambda spec: multiply_in_blocks if spec.in_blocks else multiply_at_once)


@jit
def multiply_last(spec, job, output):
    """Compute the last outputs, too few for a tile, one by one: a stride of 0 repeats a row of the head."""
    for one in range(output, job.out_features):
        for row in range(0, job.rows, spec.tile.rows):
            multiply_tile(spec, job, least(row, job.rows - spec.tile.rows), one, 1, 0, job.head, 0)


@jit
def multiply_block(spec, job, first, last):
    """Compute outputs first..last-1 of all rows, whole tiles first."""
    tile = spec.tile
    whole = first + (last - first) // tile.outputs * tile.outputs
    at_once = (ROWS_AT_ONCE + tile.rows - 1) // tile.rows * tile.rows
    for row in range(0, job.rows, at_once):
        last_row = least(row + at_once, job.rows)
        for output in range(first, whole, tile.outputs * spec.tiles_at_once):
            tiles = least(spec.tiles_at_once, (whole - output) // tile.outputs)
            multiply_outputs(spec, job, output, tiles, least(row, last_row - tile.rows), last_row)
    if last == job.out_features:
        multiply_last(spec, job, whole)


@jit
def team(spec, job):
    """Run the parallel body: prepare rows, then draw blocks of the head."""
    prepare(spec, job)
    blocks = (job.out_features + BLOCK - 1) // BLOCK
    home, ranges = member(job.fork, job.counters) % ranges_of(job.threads), ranges_of(job.threads)
    block, offset = next_piece(job.counters, home, 0, ranges, blocks)
    while block >= 0:
        multiply_block(spec, job, block * BLOCK, least((block + 1) * BLOCK, job.out_features))
        block, offset = next_piece(job.counters, home, offset, ranges, blocks)


@kernel
def run(
    spec,
    fork,
    threads,
    x,
    head,
    head_scale,
    y,
    rows,
    in_features,
    out_features,
    x_scale_at,
    offsets_at,
    x_q_at,
    x_stride,
    lower,
    workspace,
):
    """Run the whole op; every argument but `spec` is int64, an address or a number."""
    job = HeadJob(
        x,
        head,
        head_scale,
        y,
        rows,
        in_features,
        out_features,
        fork,
        threads,
        workspace,
        workspace + x_scale_at,
        workspace + offsets_at,
        workspace + x_q_at,
        x_stride,
        lower,
    )
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem; it is compiled for each height of tile that the calls turn out to need."""
    tile: HeadTile = config.tile

    def compile_for(rows: int) -> Entry:
        height = balanced_rows(rows, tile.rows)
        in_blocks = not tile.is_int8 and rows > UNBLOCKED_ROWS
        spec = HeadSpec(replace(tile, rows=height), problem.x_dtype, in_blocks)
        return compiled(run, StaticType(spec), *RUN_SIGNATURE)

    def numbers(rows: int) -> tuple[int, ...]:
        *places, _ = places_of(problem, rows)
        return (rows, problem.in_features, problem.out_features, *places)

    return Bound(
        OPERANDS if problem.w_dtype == "int8" else without(OPERANDS, "head_scale"),
        compile_for,
        numbers,
        lambda rows, threads: places_of(problem, rows).num_bytes,
        config.max_threads,
    )


# (rows, outputs) of tiles by the bucket of M. While memory is the limit, few rows of the head pass at once, which are
# read as one stream; otherwise as many as registers hold, so that x is loaded the more seldom.
ONE_ROW, MANY_ROWS = ((1, 1), (1, 2), (1, 4)), ((4, 6), (6, 4), (4, 4), (3, 8), (2, 3), (2, 2), (1, 4), (1, 2), (1, 1))
FLOAT_SHAPES = {1: ONE_ROW, 2: ((2, 2), (2, 1), (2, 4), *ONE_ROW), 4: ((4, 4), (4, 6), (4, 2), *ONE_ROW)}
INT8_MANY_ROWS = ((1, 8), (2, 6), (2, 4), (3, 4), (2, 2), (1, 4), (1, 2), (1, 1))
INT8_SHAPES = {1: ONE_ROW, 2: ((2, 1), (2, 2), *ONE_ROW), 4: ((2, 2), (2, 3), (2, 4), (4, 2), *ONE_ROW)}


def tiles(problem: Problem) -> tuple[HeadTile, ...]:
    """Return tiles that fit the registers, the likeliest best first."""
    isa, is_int8 = chosen_isa(), problem.w_dtype == "int8"
    shapes, others = (INT8_SHAPES, INT8_MANY_ROWS) if is_int8 else (FLOAT_SHAPES, MANY_ROWS)
    candidates = [HeadTile(isa.name, problem.w_dtype, *shape) for shape in shapes.get(problem.rows, others)]
    return tuple(tile for tile in candidates if tile.registers <= isa.registers)


def unsupported_reason(problem: Problem) -> str | None:
    """Return None: every problem is served."""
    return None


KERNELS = (Kernel("numba.head_logits", "head_logits", bind, likely(tiles), unsupported_reason, every(tiles)),)
