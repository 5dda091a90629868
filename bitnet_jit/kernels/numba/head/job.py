"""One call of a head kernel: its operands as addresses, and how its rows of x are prepared.

    floats   float32, in steps of the head's 64 bytes; of bfloat16 heads the 16 even inputs of a step, then the odd ones
    int8     codes of 15 bits q = 128 hi + lo: all hi of a row, then all lo (`reference.quantize_hidden`)

Both are zero from in_features to the end of the last step.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bitnet_jit.kernels.numba.bound import ALIGN, round_up
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.head.tile import LANES, STEP_BYTES, HeadTile, isa_of
from bitnet_jit.kernels.numba.intrinsics.elements import (
    ELEMENT_BYTES,
    ROUND_BITS,
    load_float,
    store_float32,
    store_int8,
    store_int32,
)
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, FLOAT_EPS, bits_of_float, float_from_bits
from bitnet_jit.kernels.numba.intrinsics.signed_dot import offset_unit
from bitnet_jit.kernels.numba.rowwise.quantize import INFINITY_BITS, MAGIC, absmax_bits
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES, done, draw, wait
from bitnet_jit.problem import Problem

ROWS_AT_ONCE = 24  # rows of x that pass while a block of the head lies in the second cache
TILES_AT_ONCE = 2  # along the outputs, where inputs pass block by block
STEPS = np.float32(127 * 128)  # of a code, in either direction


@dataclass(frozen=True)
class HeadSpec:
    """The properties that a head kernel is compiled for.

    Attributes:
        tile: the shape of its tile.
        x_dtype: a floating dtype.
        in_blocks: inputs pass block by block, since rows of x are too many for the first cache.
    """

    tile: HeadTile
    x_dtype: str
    in_blocks: bool = False

    @property
    def tiles_at_once(self) -> int:
        """Return how many tiles of outputs a block of inputs passes."""
        return TILES_AT_ONCE if self.in_blocks else 1

    @property
    def block_sums_bytes(self) -> int:
        """Return the bytes of the sums that wait while inputs pass block by block."""
        return -(-ROWS_AT_ONCE // self.tile.rows) * TILES_AT_ONCE * self.tile.sums_bytes

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]

    @property
    def offset_unit(self) -> int:
        return offset_unit(isa_of(self.tile))


class HeadJob(NamedTuple):
    """The operands of one call, all int64."""

    x: int  # (rows, in_features) spec.x_dtype
    head: int  # (out_features, in_features) spec.tile.w_dtype
    head_scale: int  # (out_features,) float32; 0 beside a head of floats
    y: int  # (rows, out_features) float32
    rows: int
    in_features: int
    out_features: int
    fork: int  # the address of the threads' source
    threads: int
    counters: int  # workspace
    x_scale: int  # workspace: (rows,) float32
    offsets: int  # workspace: (rows, 2) int32, what the sums of upper and lower halves are too large by
    x_q: int  # workspace: x as the inner loops read it
    x_stride: int  # bytes between its rows
    lower: int  # bytes from the upper to the lower halves of codes


class Places(NamedTuple):
    """The places in the workspace of a call, in bytes from its beginning, and the size of it."""

    x_scale: int
    offsets: int
    x_q: int
    x_stride: int
    lower: int
    num_bytes: int


def places_of(problem: Problem, rows: int) -> Places:
    """Return where a problem's calls with that many rows keep what; multiples of 1 KiB between rows crowd the cache."""
    element_bytes = ELEMENT_BYTES[problem.w_dtype]
    inputs = round_up(problem.in_features, STEP_BYTES // element_bytes)
    stride = 2 * inputs if problem.w_dtype == "int8" else 4 * inputs
    stride += 64 if stride % 1024 == 0 else 0
    offsets = round_up(TEAM_BYTES + 4 * rows, ALIGN)
    x_q = round_up(offsets + 8 * rows, ALIGN)
    return Places(TEAM_BYTES, offsets, x_q, stride, inputs, x_q + rows * stride)


@jit
def prepare_pairs(spec, job, row, x_q):
    """Store a row as float32, of each 32 inputs the even ones first: what a head of bfloat16 is multiplied by."""
    first = row * job.in_features
    whole = job.in_features // (2 * LANES)
    for s in range(whole):
        for i in range(LANES):
            place = first + s * 2 * LANES + 2 * i
            store_float32(x_q, s * 2 * LANES + i, load_float(spec.x_dtype, job.x, place))
            store_float32(x_q, s * 2 * LANES + LANES + i, load_float(spec.x_dtype, job.x, place + 1))
    for i in range(whole * 2 * LANES, job.lower):
        value = F0
        if i < job.in_features:
            value = load_float(spec.x_dtype, job.x, first + i)
        rest = i - whole * 2 * LANES
        store_float32(x_q, whole * 2 * LANES + rest // 2 + rest % 2 * LANES, value)


@jit
def prepare_floats(spec, job, row, x_q):
    """Store a row as float32."""
    for i in range(job.in_features):
        store_float32(x_q, i, load_float(spec.x_dtype, job.x, row * job.in_features + i))
    for i in range(job.in_features, job.lower):
        store_float32(x_q, i, F0)


@jit
def clear_codes(job, x_q, first):
    """Set the codes of a row to zero from input `first` on."""
    for i in range(first, job.lower):
        store_int8(x_q, i, np.int32(0))
        store_int8(x_q + job.lower, i, np.int32(0))


@jit
def prepare_codes(spec, job, row, x_q):
    """Store a row's codes, their scale, and what their sums will be too large by; NaN or infinity: 0 and NaN."""
    x = job.x + row * job.in_features * spec.x_bytes
    bits = absmax_bits(spec.x_dtype, x, 0, job.in_features)
    upper_sum, lower_sum = np.int32(0), np.int32(0)
    if bits >= INFINITY_BITS:
        clear_codes(job, x_q, 0)
        store_float32(job.x_scale, row, np.float32(np.nan))
    else:
        absmax = float_from_bits(bits)
        absmax = absmax if absmax > FLOAT_EPS else FLOAT_EPS
        factor = STEPS / absmax
        store_float32(job.x_scale, row, absmax / STEPS)
        for i in range(job.in_features):
            shifted = bits_of_float(load_float(spec.x_dtype, x, i) * factor + MAGIC)
            code = np.int32(np.int32(shifted) - np.int32(ROUND_BITS))
            upper = np.int32(np.int32(code + np.int32(64)) >> np.int32(7))
            lower = np.int32(code - np.int32(upper << np.int32(7)))
            store_int8(x_q, i, upper)
            store_int8(x_q + job.lower, i, lower)
            upper_sum = np.int32(upper_sum + upper)
            lower_sum = np.int32(lower_sum + lower)
        clear_codes(job, x_q, job.in_features)
    unit = np.int32(spec.offset_unit)
    store_int32(job.offsets, 2 * row, np.int32(upper_sum * unit))
    store_int32(job.offsets, 2 * row + 1, np.int32(lower_sum * unit))


def preparation(spec: HeadSpec):
    """Return how a row is prepared for a head."""
    if spec.tile.is_int8:
        return prepare_codes
    return prepare_pairs if spec.tile.w_dtype == "bfloat16" else prepare_floats


prepare_row = one_of(preparation)


@jit
def prepare(spec, job):
    """Prepare all rows of x: the first phase of a team. Return when every row is ready."""
    row = draw(job.counters)
    while row < job.rows:
        prepare_row(spec, job, row, job.x_q + row * job.x_stride)
        done(job.counters)
        row = draw(job.counters)
    wait(job.counters, job.rows)
