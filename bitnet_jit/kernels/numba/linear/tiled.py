"""Ternary linear layers for any M, N and K by register tiles: the kernel that every CPU runs.

Three ops share it: `bit_linear` (float x), `quantized_linear` (codes and scales) and `ternary_matmul` (codes ->
int32). A piece of work is a block of 64 outputs and some rows of x; inside it a strip of packed weights stays in the
first cache while the rows pass. The last tile of a piece may overlap the one before: it computes the same numbers
again.
"""

from dataclasses import replace

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.clock import ticks
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa
from bitnet_jit.kernels.numba.intrinsics.pointers import stack_space
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.layout import BLOCK, INPUTS_OF_LAYOUT, STEP_BYTES
from bitnet_jit.kernels.numba.linear.epilogue import finish_rows
from bitnet_jit.kernels.numba.linear.groups import multiply_by_groups
from bitnet_jit.kernels.numba.linear.job import prepare
from bitnet_jit.kernels.numba.linear.launch import bind_linear, works_on
from bitnet_jit.kernels.numba.linear.tile import Tile, accumulate, registers_type
from bitnet_jit.kernels.numba.threads.parallel import member, next_piece, ranges_of
from bitnet_jit.kernels.numba.threads.team import TeamConfig, every, likely
from bitnet_jit.problem import Problem

PIECES_PER_THREAD = 8
# (rows, columns) of tiles by the bucket of M: whole steps of the layout (4 columns) while memory is the limit
MANY_ROWS = ((12, 2), (8, 2), (4, 2), (6, 4), (4, 4), (24, 1), (16, 1), (8, 1))
SOME_ROWS = tuple(dict.fromkeys(((4, 4), (6, 4), (4, 2), *MANY_ROWS)))
SHAPES = {
    1: ((1, 4), (1, 2), (1, 1)),
    2: ((2, 4), (2, 2), (2, 1)),
    4: ((4, 4), (4, 2), (4, 1)),
    8: SOME_ROWS,
    16: SOME_ROWS,
}
LINE_BYTES = 64
MAX_HOT_TICKS = 6  # per line of weights: from the second cache 3 or 4 on all CPUs seen; from memory 9 and more


@jit
def multiply_whole(spec, job, first_row, w, output, count, cold):
    """Compute a tile of rows first_row.. by `count` outputs from number `output`, whose codes begin at address w."""
    tile = spec.tile
    acc = stack_space(tile, "acc_bytes")
    steps = (job.in_features + tile.inputs - 1) // tile.inputs
    x = job.x_q + first_row * job.x_stride
    if cold:
        accumulate(tile, x, job.x_stride, w, steps, acc)
    else:
        accumulate(tile.hot, x, job.x_stride, w, steps, acc)
    finish_rows(spec, job, acc, 4 * tile.width, first_row, tile.rows, output, count)


multiply = one_of(lambda spec: multiply_by_groups if spec.grouped else multiply_whole)


@jit
def multiply_block(spec, job, block, first_row, last_row, cold):
    """Compute a block of outputs for rows first_row..last_row-1, at least one tile high."""
    tile = spec.tile
    steps = (job.in_features + tile.inputs - 1) // tile.inputs
    for strip in range(0, BLOCK, tile.width):
        output = block * BLOCK + strip
        count = least(tile.width, job.out_features - output)
        if count > 0:
            w = job.w + block * steps * STEP_BYTES + 4 * strip
            for row in range(first_row, last_row, tile.rows):
                multiply(spec, job, least(row, last_row - tile.rows), w, output, count, cold)


@jit
def is_cold(spec, job, took):
    """Return whether a block's weights came from memory, by the clock; only one row is so fast that memory shows."""
    lines = (job.in_features + spec.tile.inputs - 1) // spec.tile.inputs * (STEP_BYTES // LINE_BYTES)
    return spec.tile.rows > 1 or took == 0 or took > MAX_HOT_TICKS * lines


@works_on(Tile)
@jit
def work(spec, job):
    """Run the parallel body: prepare rows, then draw blocks."""
    prepare(spec, job, 0)
    blocks = (job.out_features + BLOCK - 1) // BLOCK
    tiles = (job.rows + spec.tile.rows - 1) // spec.tile.rows
    parts = least(tiles, most(1, PIECES_PER_THREAD * job.threads // blocks))
    home, ranges = member(job.fork, job.counters) % ranges_of(job.threads), ranges_of(job.threads)
    piece, offset = next_piece(job.counters, home, 0, ranges, blocks * parts)
    cold = True
    while piece >= 0:
        start = ticks()
        block, part = piece // parts, piece % parts
        first = tiles * part // parts * spec.tile.rows
        last = least(tiles * (part + 1) // parts * spec.tile.rows, job.rows)
        multiply_block(spec, job, block, least(first, last - spec.tile.rows), last, cold)
        cold = is_cold(spec, job, ticks() - start)
        piece, offset = next_piece(job.counters, home, offset, ranges, blocks * parts)


def balanced_rows(rows: int, height: int) -> int:
    """Return the rows of a tile, at most `height`, that make a call's tiles as equal as can be: 17 by 12 is 9 and 8."""
    tiles = -(-rows // height)
    return -(-rows // tiles)


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem; it is compiled for each height of tile that the calls turn out to need."""
    tile = config.tile
    return bind_linear(problem, lambda rows: replace(tile, rows=balanced_rows(rows, tile.rows)), config.max_threads)


def tiles(problem: Problem) -> tuple[Tile, ...]:
    """Return tiles that fit the registers, the likeliest best first."""
    isa, format = chosen_isa(), problem.layout.partition("/")[0]
    shapes = SHAPES.get(problem.rows, MANY_ROWS)
    candidates = [Tile(isa.name, format, rows, columns) for rows, columns in shapes]
    fitting = [tile for tile in candidates if registers_type(tile).count <= isa.registers]
    return tuple(fitting) or (Tile(isa.name, format, 1, 1),)


def codes_unsupported_reason(problem: Problem) -> str | None:
    """Return why no kernel of this file can run a problem, in words, or None."""
    if problem.layout not in INPUTS_OF_LAYOUT:
        return f"reads the layouts {', '.join(INPUTS_OF_LAYOUT)}, not {problem.layout!r}"
    return "serves activation='a8' and 'a8g'" if problem.activation == "a16" else None


def unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel for scales of tensors and rows cannot run a problem, in words, or None."""
    if problem.scale == "group":
        return "takes tensor and row scales, not group scales"
    return codes_unsupported_reason(problem)


def groups_unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel for group scales cannot run a problem, in words, or None."""
    if problem.scale != "group":
        return "takes group scales"
    if reason := codes_unsupported_reason(problem):
        return reason
    step = INPUTS_OF_LAYOUT[problem.layout]
    if problem.group_size % step:
        return f"takes groups of a multiple of {step} inputs in layout {problem.layout!r}, not {problem.group_size}"
    return None


KERNELS = (
    *(
        Kernel(f"numba.{op}", op, bind, likely(tiles), unsupported_reason, every(tiles))
        for op in ("bit_linear", "quantized_linear", "ternary_matmul")
    ),
    *(
        Kernel(f"numba.{op}_groups", op, bind, likely(tiles), groups_unsupported_reason, every(tiles))
        for op in ("bit_linear", "quantized_linear")
    ),
)
