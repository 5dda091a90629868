"""Ternary linear layers on AMX, Intel's matrix unit, from three rows of x on.

The quantizer writes x in tiles of up to 16 rows by 64 inputs, each in one piece. A unit fills the registers: up to 32
rows by 32 outputs, or 16 by 64; a piece of work is a strip of outputs that wide and some units. With one
unit, the codes of the next tile are unpacked while this one is multiplied; with more, K passes in chunks, whose
unpacked codes stay in the first cache while all units pass. Codes beyond K may be anything: there x is zero.
"""

from dataclasses import replace

import numpy as np
from numba import types

from bitnet_jit.errors import UnsupportedProblem
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.amx_tiles import amx_unsupported_reason, configure, release, zero_sums
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer, stack_space
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.layout import BLOCK, INPUTS_OF_LAYOUT, STEP_BYTES
from bitnet_jit.kernels.numba.linear import tiled
from bitnet_jit.kernels.numba.linear.amx_groups import (
    LARGEST_GROUP,
    AmxGroupTile,
    group_tiles,
    multiply_piece_by_groups,
)
from bitnet_jit.kernels.numba.linear.amx_loops import multiply_and_unpack, multiply_chunk, steps_until, unpack_until
from bitnet_jit.kernels.numba.linear.amx_tile import AHEAD, AmxTile, load_sums, store_sums
from bitnet_jit.kernels.numba.linear.epilogue import finish_rows
from bitnet_jit.kernels.numba.linear.job import TILE_BYTES, prepare
from bitnet_jit.kernels.numba.linear.launch import bind_linear, works_on
from bitnet_jit.kernels.numba.rowwise.quantize import SEGMENT
from bitnet_jit.kernels.numba.threads.parallel import member, next_piece, ranges_of
from bitnet_jit.kernels.numba.threads.team import TeamConfig, every, likely
from bitnet_jit.problem import Problem

NEAR_BYTES = 2**20  # of x in a part of the rows: the second cache keeps them while all strips of outputs pass
MIN_ROWS, MIN_GROUP_ROWS = 4, 16  # of the bucket: fewer rows are faster without AMX


@jit
def write_shapes(config, rows):
    """Write the 64 bytes that give tiles 0..5 `rows` rows, 6 and 7 sixteen, all 64 bytes wide."""
    memory = pointer(config, types.uint8)
    for i in range(64):
        memory[i] = np.uint8(0)
    memory[0] = np.uint8(1)
    for tile in range(8):
        memory[16 + 2 * tile] = np.uint8(64)
        memory[48 + tile] = np.uint8(rows if tile < 6 else 16)


@jit
def multiply_units(tile, x, second, units, w, steps, tiles, ring, acc, tile_bytes):
    """Sum up some units over all inputs. K passes in chunks, whose codes the first unit unpacks and all use.

    A single unit's chunk is all of K: its sums stay in the registers.
    """
    chunk = tiles if units == 1 else tile.chunk
    step = unpack_until(tile, w, ring, 0, steps_until(tile, AHEAD, steps))
    for first in range(0, tiles, chunk):
        last = least(first + chunk, tiles)
        for unit in range(units):
            place, x_unit = acc + unit * tile.row_tiles * tile_bytes, x + unit * tile.row_tiles * second
            if first == 0:
                zero_sums()
            else:
                load_sums(tile, place, tile_bytes)
            if unit == 0:
                step = multiply_and_unpack(tile, x_unit, second, w, steps, step, ring, first, last)
            else:
                multiply_chunk(tile, x_unit, second, ring, first, last)
            store_sums(tile, place, tile_bytes)


@jit
def multiply_whole_piece(spec, job, strip, first_unit, last_unit, rows, ring, acc):
    """Compute a strip of outputs for units first_unit..last_unit-1, whose tiles have `rows` rows."""
    tile = spec.tile
    tiles = (job.in_features + SEGMENT - 1) // SEGMENT
    steps = (job.in_features + 4 * tile.code_rows - 1) // (4 * tile.code_rows)
    output = strip * tile.width
    w = job.w + output // BLOCK * steps * STEP_BYTES + output % BLOCK * 4
    second = job.x_stride // SEGMENT * TILE_BYTES
    x = job.x_q + first_unit * tile.row_tiles * second
    units = last_unit - first_unit
    multiply_units(tile, x, second, units, w, steps, tiles, ring, acc, rows * tile.row_bytes)
    first_row = first_unit * tile.row_tiles * rows
    rows_here = least(units * tile.row_tiles * rows, job.rows - first_row)
    count = least(tile.width, job.out_features - output)
    finish_rows(spec, job, acc, tile.row_bytes, first_row, rows_here, output, count)


multiply_piece = one_of(lambda spec: multiply_piece_by_groups if spec.grouped else multiply_whole_piece)


@works_on(AmxGroupTile)
@works_on(AmxTile)
@jit
def work(spec, job):
    """Run the parallel body: prepare rows in tiles, then draw pieces."""
    tile = spec.tile
    units = (job.rows + tile.height - 1) // tile.height
    rows = (job.rows + units * tile.row_tiles - 1) // (units * tile.row_tiles)
    prepare(spec, job, rows)
    ring, acc = stack_space(tile, "ring_bytes"), stack_space(tile, "acc_bytes")
    config = stack_space(tile, "config_bytes")
    write_shapes(config, rows)
    configure(config)
    strips = (job.out_features + tile.width - 1) // tile.width
    fewest = most((units + tile.units - 1) // tile.units, job.rows * job.x_stride // NEAR_BYTES)
    parts = least(units, most(fewest, tiled.PIECES_PER_THREAD * job.threads // strips))
    home, ranges = member(job.fork, job.counters) % ranges_of(job.threads), ranges_of(job.threads)
    piece, offset = next_piece(job.counters, home, 0, ranges, strips * parts)
    while piece >= 0:
        part = piece // strips
        multiply_piece(spec, job, piece % strips, units * part // parts, units * (part + 1) // parts, rows, ring, acc)
        piece, offset = next_piece(job.counters, home, offset, ranges, strips * parts)
    release()


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, if `unsupported_reason` allows it: else a tile would end the process."""
    reason = (groups_unsupported_reason if problem.scale == "group" else unsupported_reason)(problem)
    if reason:
        raise UnsupportedProblem(str(problem), {"numba.amx": reason})
    tile = config.tile
    return bind_linear(
        problem, lambda rows: replace(tile, row_tiles=1 if rows <= 16 else tile.row_tiles), config.max_threads
    )


def tiles(problem: Problem) -> tuple[AmxTile, ...]:
    """Return tiles, the likeliest best first."""
    format = problem.layout.partition("/")[0]
    row_tiles = (1,) if problem.rows <= 16 else (2, 1)
    rings = (4, 8) if problem.rows <= 32 else (8, 16, 4)
    return tuple(AmxTile(format, rows, ring) for ring in rings for rows in row_tiles)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel for scales of tensors and rows cannot run a problem, in words, or None."""
    return tiled.unsupported_reason(problem) or unit_unsupported_reason(problem, MIN_ROWS)


def groups_unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel for group scales cannot run a problem, in words, or None."""
    if reason := tiled.groups_unsupported_reason(problem) or unit_unsupported_reason(problem, MIN_GROUP_ROWS):
        return reason
    if SEGMENT % INPUTS_OF_LAYOUT[problem.layout]:
        return f"reads layouts whose steps divide {SEGMENT} inputs, not {problem.layout!r}"
    if not group_tiles(problem):
        return f"takes groups of {SEGMENT} to {LARGEST_GROUP} inputs, a multiple of {SEGMENT}, not {problem.group_size}"
    return None


def unit_unsupported_reason(problem: Problem, min_rows: int) -> str | None:
    """Return why the matrix unit is not for a problem, in words, or None."""
    if problem.rows < min_rows:
        return f"takes {min_rows} rows or more, where it is the faster"
    return amx_unsupported_reason()


KERNELS = (
    *(
        Kernel(f"numba.amx_{op}", op, bind, likely(tiles), unsupported_reason, every(tiles))
        for op in ("bit_linear", "quantized_linear", "ternary_matmul")
    ),
    *(
        Kernel(f"numba.amx_{op}_groups", op, bind, likely(group_tiles), groups_unsupported_reason, every(group_tiles))
        for op in ("bit_linear", "quantized_linear")
    ),
)
