"""Loops of the kernels on AMX: codes of K unpacked ahead into a ring, and multiplied tile by tile of 64 inputs."""

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.layout import STEP_BYTES
from bitnet_jit.kernels.numba.linear.amx_tile import AHEAD, multiply_add, multiply_add_unpack, unpack_step
from bitnet_jit.kernels.numba.linear.job import TILE_BYTES


@jit
def unpack_until(tile, w, ring, step, last):
    """Unpack steps `step`..last-1 of K, from address w; return the next one."""
    while step < last:
        unpack_step(tile, w + step * STEP_BYTES, ring, step * tile.code_rows)
        step += 1
    return step


@jit
def steps_until(tile, tiles, steps):
    """Return how many of `steps` steps of K the first `tiles` tiles of 64 inputs need."""
    return least(steps, (tiles * 16 + tile.code_rows - 1) // tile.code_rows)


@jit
def multiply_chunk(tile, x, second, ring, first, last):
    """Add to sums tiles first..last-1 of x (addressed from the first of its row) times their codes in the ring."""
    for t in range(first, last):
        codes = ring + t % tile.ring * 16 * tile.row_bytes
        multiply_add(tile, x + t * TILE_BYTES, second, codes)


@jit
def multiply_and_unpack(tile, x, second, w, steps, step, ring, first, last):
    """Do as `multiply_chunk`, and unpack codes from step `step` on, AHEAD tiles early; return the next step."""
    for t in range(first, last):
        codes = ring + t % tile.ring * 16 * tile.row_bytes
        if step + tile.batch <= steps:
            row = step * tile.code_rows
            multiply_add_unpack(tile, x + t * TILE_BYTES, second, codes, w + step * STEP_BYTES, ring, row)
            step += tile.batch
        else:
            multiply_add(tile, x + t * TILE_BYTES, second, codes)
        step = unpack_until(tile, w, ring, step, steps_until(tile, t + 1 + AHEAD, steps))
    return step
