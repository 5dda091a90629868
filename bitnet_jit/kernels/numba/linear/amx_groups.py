"""Ternary linear layers with a scale per group of inputs on AMX: integers within a group, floats between groups.

The numbers are those of `groups.py`, bit for bit. A piece is a strip of outputs and some units; group after group, all
units pass. A unit's products of a group are in the registers; they go to one of two places in memory, where they are
scaled and added to its sums while the registers fill with the next unit's.
"""

from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.amx_tiles import zero_sums
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, at, load, splat
from bitnet_jit.kernels.numba.intrinsics.isa import AVX512_VNNI
from bitnet_jit.kernels.numba.intrinsics.pointers import stack_space
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.layout import BLOCK, STEP_BYTES
from bitnet_jit.kernels.numba.linear.amx_loops import multiply_and_unpack, multiply_chunk, steps_until, unpack_until
from bitnet_jit.kernels.numba.linear.amx_tile import AHEAD, AmxTile, store_sums
from bitnet_jit.kernels.numba.linear.epilogue import clear, finish_floats, scale_row
from bitnet_jit.kernels.numba.linear.job import TILE_BYTES
from bitnet_jit.kernels.numba.linear.scales import SPAN, load_scales
from bitnet_jit.kernels.numba.rowwise.quantize import SEGMENT
from bitnet_jit.problem import Problem

MAX_RING = 16
LARGEST_GROUP = SEGMENT * (MAX_RING - AHEAD)


@dataclass(frozen=True)
class AmxGroupTile(AmxTile):
    """The shape of a tile on AMX where groups of inputs have scales; the ring holds a group, and what is ahead."""

    @property
    def units(self) -> int:
        """Return the units of a piece of work at most, whose sums the first cache keeps."""
        return 8

    @property
    def isa(self) -> str:
        """Return the name of the instruction set that scales sums."""
        return AVX512_VNNI.name

    @property
    def lanes(self) -> int:
        """Return the sums in a register."""
        return AVX512_VNNI.lanes

    @property
    def products_bytes(self) -> int:
        """Return the bytes of two units' products."""
        return 2 * self.height * self.row_bytes

    @property
    def span_bytes(self) -> int:
        """Return the bytes of the scales of SPAN groups."""
        return SPAN * 4 * self.width


@intrinsic
def add_row(typingctx, spec, products, x_sum, x_scale, scales, sums):
    """Add float32(products - sum of x_q) * scales of one row and group to its sums; all arguments are addresses.

    With spec.x_grouped scales are multiplied by that of x before; x_sum holds negative sums.
    """
    tile = spec.value.tile
    floats = ir.VectorType(F32, tile.lanes)

    def codegen(context, builder, signature, args):
        _, products, x_sum, x_scale, scales, sums = args
        total = splat(builder, load(builder, x_sum, 0, I32), AVX512_VNNI.vector)
        of_row = splat(builder, load(builder, x_scale, 0, F32), floats) if spec.value.x_grouped else None
        for v in range(tile.groups):
            factor = load(builder, scales, 64 * v, floats)
            factor = factor if of_row is None else builder.fmul(of_row, factor)
            value = builder.sitofp(builder.add(load(builder, products, 64 * v, AVX512_VNNI.vector), total), floats)
            place = at(builder, sums, 64 * v, floats)
            builder.store(builder.fadd(builder.load(place, align=4), builder.fmul(value, factor)), place, align=4)
        return context.get_dummy_value()

    return types.void(spec, *(types.int64,) * 5), codegen


@jit
def add_unit(spec, job, group, unit, products, scales, sums, first_row, rows):
    """Add the products of a group and a unit of `rows` rows to its sums; `first_row` is that of unit 0."""
    tile, first = spec.tile, unit * rows
    made = products + unit % 2 * tile.height * tile.row_bytes
    for r in range(least(rows, job.rows - first_row - first)):
        place, total = 4 * ((first_row + first + r) * job.groups + group), sums + (first + r) * tile.row_bytes
        add_row(spec, made + r * tile.row_bytes, job.x_sum + place, job.x_scale + place, scales, total)


@jit
def multiply_group(spec, job, group, x, second, units, w, steps, step, ring, products, scales, sums, first_row, rows):
    """Add a group's products of all units to their sums; return the next step of K to be unpacked."""
    tile, tiles = spec.tile, job.group_size // SEGMENT
    first, unit_rows = group * tiles, rows * tile.row_tiles
    last = least(first + tiles, (job.in_features + SEGMENT - 1) // SEGMENT)
    for unit in range(units):
        zero_sums()
        if unit == 0:
            step = multiply_and_unpack(tile, x, second, w, steps, step, ring, first, last)
        else:
            multiply_chunk(tile, x + unit * tile.row_tiles * second, second, ring, first, last)
            add_unit(spec, job, group, unit - 1, products, scales, sums, first_row, unit_rows)
        store_sums(tile, products + unit % 2 * tile.height * tile.row_bytes, rows * tile.row_bytes)
    add_unit(spec, job, group, units - 1, products, scales, sums, first_row, unit_rows)
    return step


@jit
def scale_sums(spec, job, row, sums, count):
    """Multiply the sums of a row by its scale."""
    scale_row(sums, load_float32(job.x_scale, row), count)


@jit
def leave_sums(spec, job, row, sums, count):
    """Leave sums as they are: scales of x have come in group by group."""


end_sums = one_of(lambda spec: leave_sums if spec.x_grouped else scale_sums)


@jit
def multiply_piece_by_groups(spec, job, strip, first_unit, last_unit, rows, ring, sums):
    """Compute a strip of outputs for units first_unit..last_unit-1, whose tiles have `rows` rows."""
    tile, units = spec.tile, last_unit - first_unit
    products, scales = stack_space(tile, "products_bytes"), stack_space(tile, "span_bytes")
    steps = (job.in_features + 4 * tile.code_rows - 1) // (4 * tile.code_rows)
    output, second = strip * tile.width, job.x_stride // SEGMENT * TILE_BYTES
    w = job.w + output // BLOCK * steps * STEP_BYTES + output % BLOCK * 4
    x, first_row = job.x_q + first_unit * tile.row_tiles * second, first_unit * tile.row_tiles * rows
    clear(sums, units * tile.row_tiles * rows * tile.width)
    step = unpack_until(tile, w, ring, 0, steps_until(tile, AHEAD, steps))
    for first in range(0, job.groups, SPAN):
        begin = most(0, least(first, job.groups - SPAN))
        load_scales(tile, job.w_scale, job.groups, job.out_features, output, begin, scales)
        for group in range(first, least(first + SPAN, job.groups)):
            of_group = scales + (group - begin) * tile.row_bytes
            step = multiply_group(
                spec, job, group, x, second, units, w, steps, step, ring, products, of_group, sums, first_row, rows
            )
    count = least(tile.width, job.out_features - output)
    for r in range(least(units * tile.row_tiles * rows, job.rows - first_row)):
        end_sums(spec, job, first_row + r, sums + r * tile.row_bytes, count)
        finish_floats(spec, job, sums + r * tile.row_bytes, first_row + r, output, count)


def group_tiles(problem: Problem) -> tuple[AmxGroupTile, ...]:
    """Return tiles whose ring holds a group, the likeliest best first; none where there is no such ring."""
    tiles, rest = divmod(problem.group_size, SEGMENT)
    rings = [ring for ring in (4, 8, MAX_RING) if ring >= tiles + AHEAD]
    if rest or not tiles or not rings:
        return ()
    format = problem.layout.partition("/")[0]
    row_tiles = (1,) if problem.rows <= 16 else (2, 1)
    return tuple(AmxGroupTile(format, rows, rings[0]) for rows in row_tiles)
