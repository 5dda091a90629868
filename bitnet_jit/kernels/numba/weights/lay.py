"""Canonical `i2` -> the layout `i2/n64k16`, in one pass that all threads share; `layout.py` has the layout.

Tiles of 16 outputs by 16 steps of K are turned in registers; what is smaller is moved word by word.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.numba.bound import Entry
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.elements import store_int32
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.intrinsics.word_tiles import BLOCK, SIDE, STEP_BYTES, lay_tile
from bitnet_jit.kernels.numba.threads.parallel import draw, reset, run_team

WORD_BYTES, WORD_INPUTS = 4, 16
ZEROS = 0x55555555  # a word of weights 0
SIGNATURE = (types.int64,) * 9


class LayJob(NamedTuple):
    """The operands of one call, all int64."""

    packed: int  # (rows, columns) uint8
    tiles: int  # (blocks, steps, 4, 64) uint8
    rows: int
    columns: int
    in_features: int
    steps: int
    counters: int


@jit
def word_at(job, row, step):
    """Return a row's word of one step, its codes in their places; those that there are none of are 1."""
    word, inputs = ZEROS, least(job.in_features - step * WORD_INPUTS, WORD_INPUTS)
    if row < job.rows:
        memory = pointer(job.packed + row * job.columns + step * WORD_BYTES, types.uint8)
        for byte in range((inputs + 3) // 4):
            mask = (1 << 2 * least(inputs - 4 * byte, 4)) - 1
            word = (word & ~(mask << 8 * byte)) | ((np.int64(memory[byte]) & mask) << 8 * byte)
    change = ((word >> 12) ^ word) & 0x0000F0F0
    word = word ^ change ^ (change << 12)
    change = ((word >> 6) ^ word) & 0x00CC00CC
    return word ^ change ^ (change << 6)


@jit
def lay_words(job, first_row, first_step, last_step, out):
    """Lay some steps of 16 rows word by word."""
    for step in range(first_step, last_step):
        for n in range(SIDE):
            store_int32(out + step * STEP_BYTES, n, np.int32(word_at(job, first_row + n, step)))


@jit
def lay_block(job, block):
    """Lay the 64 rows of a block."""
    for part in range(BLOCK // SIDE):
        row = block * BLOCK + part * SIDE
        out = job.tiles + block * job.steps * STEP_BYTES + part * SIDE * WORD_BYTES
        source, whole = job.packed + row * job.columns, 0
        if row + SIDE <= job.rows:
            whole = job.in_features // (WORD_INPUTS * SIDE) * SIDE
        for step in range(0, whole, SIDE):
            lay_tile(source + step * WORD_BYTES, job.columns, out + step * STEP_BYTES, STEP_BYTES)
        lay_words(job, row, whole, job.steps, out)


@jit
def team(job):
    """Run the parallel body: draw blocks to lay."""
    blocks, block = (job.rows + BLOCK - 1) // BLOCK, draw(job.counters)
    while block < blocks:
        lay_block(job, block)
        block = draw(job.counters)


@kernel
def run(spec, fork, threads, packed, tiles, rows, columns, in_features, steps, workspace):
    """Run the whole pass: addresses and numbers, int64."""
    job = LayJob(packed, tiles, rows, columns, in_features, steps, workspace)
    reset(job.counters, threads)
    run_team(fork, threads, team, (job,))


@cache
def entry() -> Entry:
    """Return the entry point, compiled."""
    return compiled(run, StaticType("i2/n64k16"), *SIGNATURE)


def lay(packed: Any, tiles: Any, in_features: int, launch: Callable[..., None]) -> None:
    """Fill `tiles` with a canonical weight.

    Args:
        packed: a contiguous tensor of torch on the CPU, uint8 (N, ceil(in_features / 4)).
        tiles: likewise, uint8 (ceil(N / 64), ceil(in_features / 16), 4, 64).
        in_features: K.
        launch: runs an entry point on threads (`tensors.py`).
    """
    launch(entry(), packed.data_ptr(), tiles.data_ptr(), *packed.shape, in_features, tiles.shape[1])
