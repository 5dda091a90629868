"""One call of a linear kernel: its operands as addresses, and how its rows are prepared.

All kernels of this folder share this part; they differ in how they multiply (`tiled.py`, `amx.py`, `a16.py`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES, store_int8, store_int32
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.linear.sizes import (
    GROUP_SIZE,
    GROUPS,
    IN_FEATURES,
    MAX_THREADS_AT,
    OUT_FEATURES,
    ROWS,
    SCALE_STRIDE,
    X_Q_AT,
    X_SCALE_AT,
    X_STRIDE,
    X_SUM_AT,
)
from bitnet_jit.kernels.numba.rowwise.quantize import (
    SEGMENT,
    copy_row,
    place_of,
    quantize_groups,
    quantize_row,
    sum_groups,
)
from bitnet_jit.kernels.numba.threads.parallel import done, draw, wait

TILE_BYTES = 1024
CHUNK_ELEMENTS = 16384  # of x in one piece of the first phase
ZERO = np.int32(0)


@dataclass(frozen=True)
class LinearSpec:
    """The properties that a linear kernel is compiled for.

    Attributes:
        tile: the shape of its tile: a frozen dataclass of the kernel's file.
        x_dtype: "int8" for codes, or a floating dtype.
        y_dtype: "int32" for bare sums, or a floating dtype.
        bias_dtype: a floating dtype, where there is a bias.
        grouped: groups of inputs have scales of their own.
        x_grouped: so do those of x.
    """

    tile: Any
    x_dtype: str
    y_dtype: str
    bias_dtype: str = "float32"
    grouped: bool = False
    x_grouped: bool = False

    @property
    def y_is_sums(self) -> bool:
        return self.y_dtype == "int32"

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]


class Job(NamedTuple):
    """The operands of one call, all int64; one that is not used is 0."""

    x: int  # (rows, in_features) contiguous, spec.x_dtype
    x_scale: int  # (rows,) float32, or (rows, groups): given with codes, else in the workspace
    w: int  # blocks of the layout
    w_scale: int  # float32 (), (N,) or (N, groups)
    bias: int  # (N,) spec.bias_dtype
    y: int  # (rows, out_features) contiguous, spec.y_dtype
    rows: int
    in_features: int
    out_features: int
    scale_stride: int  # of w_scale from output to output: 0 for one scale, 1, or the number of groups
    group_size: int  # inputs that share a scale and a sum; in_features where there is one group
    groups: int
    fork: int  # the address of the threads' source
    threads: int
    counters: int  # workspace
    x_sum: int  # workspace: (rows, 1) int32 sums of codes; (rows, groups) with group scales, negative ones
    x_q: int  # workspace: x as the inner loops read it, zero beyond in_features: rows x_stride bytes apart, or tiles
    x_stride: int


@jit
def make_job(fork, threads, x, x_scale, w, w_scale, bias, y, sizes, workspace):
    """Return a Job from the arguments of a call, the address of its `Sizes` and that of its workspace."""
    size = pointer(sizes, types.int64)
    return Job(
        x,
        x_scale if x_scale != 0 else workspace + size[X_SCALE_AT],
        w,
        w_scale,
        bias,
        y,
        size[ROWS],
        size[IN_FEATURES],
        size[OUT_FEATURES],
        size[SCALE_STRIDE],
        size[GROUP_SIZE],
        size[GROUPS],
        fork,
        least(threads, size[MAX_THREADS_AT]),
        workspace,
        workspace + size[X_SUM_AT],
        workspace + size[X_Q_AT],
        size[X_STRIDE],
    )


write_codes = one_of(lambda dtype: copy_row if dtype == "int8" else quantize_row)


@jit
def store_sum(spec, job, row, codes, stride, total):
    """Store the sum of a row's codes."""
    store_int32(job.x_sum, row, total)


@jit
def store_group_sums(spec, job, row, codes, stride, total):
    """Store the negative sums of a row's codes by groups."""
    sum_groups(codes, stride, job.in_features, job.group_size, job.x_sum, row * job.groups)


store_sums = one_of(lambda spec: store_group_sums if spec.grouped else store_sum)


@jit
def prepare_whole_row(spec, job, row, codes, stride):
    """Store codes of one row of x in segments of 64 that begin `stride` bytes apart, its scale and its sums."""
    x = job.x + row * job.in_features * spec.x_bytes
    segments = job.x_stride // SEGMENT
    total = write_codes(spec.x_dtype, x, job.in_features, codes, segments, stride, job.x_scale, row)
    store_sums(spec, job, row, codes, stride, total)


@jit
def prepare_row_by_groups(spec, job, row, codes, stride):
    """Store codes of one row of x in segments, and of each group its scale and its negative sum."""
    x, first = job.x + row * job.in_features * spec.x_bytes, row * job.groups
    quantize_groups(spec.x_dtype, x, job.in_features, job.group_size, codes, stride, job.x_scale, job.x_sum, first)
    for i in range(job.in_features, job.x_stride):
        store_int8(place_of(codes, stride, i), 0, ZERO)


prepare_row = one_of(lambda spec: prepare_row_by_groups if spec.x_grouped else prepare_whole_row)


@jit
def place_in_tiles(job, row, tile_rows):
    """Return the address of a row's first segment in tiles of `tile_rows` rows (at most 16) by 64 inputs (1 KiB)."""
    tiles = job.x_stride // SEGMENT
    return job.x_q + row // tile_rows * tiles * TILE_BYTES + row % tile_rows * SEGMENT


@jit
def prepare(spec, job, tile_rows):
    """Prepare all rows of x, drawn in chunks: the first phase of a team. Return when every row is ready.

    Codes lie row after row where `tile_rows` is 0, else in tiles (`place_in_tiles`).
    """
    chunk = most(1, CHUNK_ELEMENTS // job.in_features)
    pieces = (job.rows + chunk - 1) // chunk
    piece = draw(job.counters)
    while piece < pieces:
        for row in range(piece * chunk, least((piece + 1) * chunk, job.rows)):
            if tile_rows == 0:
                prepare_row(spec, job, row, job.x_q + row * job.x_stride, SEGMENT)
            else:
                prepare_row(spec, job, row, place_in_tiles(job, row, tile_rows), TILE_BYTES)
        done(job.counters)
        piece = draw(job.counters)
    wait(job.counters, pieces)
