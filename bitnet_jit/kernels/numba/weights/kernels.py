"""`quantize_weight` and `dequantize_weight`: a float weight to what kernels read, and back to floats.

    w_scale = max(mean|w|, 1e-5)         summed in float64, rounded once to float32          (arXiv 2402.17764, eq. 1-3)
    w_q     = clip(round(w / w_scale), -1, 1), packed as `i2/n64k16`
    w       = w_q * w_scale, rounded to its dtype

Blocks of 64 outputs are shared out among threads. A team that quantizes first adds up the magnitudes of each block,
then each thread adds up the blocks in one order: the scale is the same for any number of threads. Why a comparison with
half the scale is enough is told in `kernels/triton/weights/quantize_weight.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.numba.bound import Bound, Entry, Operands
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.elements import (
    ELEMENT_BYTES,
    load_float,
    load_float32,
    load_int32,
    store_float,
    store_float32,
    store_int32,
)
from bitnet_jit.kernels.numba.intrinsics.lanes import LANES, add_lanes, add_magnitudes, zero_doubles
from bitnet_jit.kernels.numba.intrinsics.simd import least, pointer
from bitnet_jit.kernels.numba.intrinsics.words import INPUTS, ZEROS, store_word, word_of
from bitnet_jit.kernels.numba.layout import I2_TILES, OUTPUTS
from bitnet_jit.kernels.numba.threads.parallel import (
    COUNTER_BYTES,
    COUNTERS,
    done,
    draw,
    member,
    next_piece,
    ranges_of,
    reset,
    run_team,
    wait,
)
from bitnet_jit.kernels.numba.threads.team import TeamConfig, likely_teams
from bitnet_jit.problem import Problem

EPS, HALF = np.float32(1e-5), np.float32(0.5)
STEP_BYTES = 256  # of a block of outputs by one word each
SMALL_WORK = 2**16  # weights under which a second thread costs more than it brings


@dataclass(frozen=True)
class WeightSpec:
    """What a kernel is compiled for: the dtype of the floats, and whether each output has a scale of its own."""

    dtype: str
    row_scales: bool = False

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]


class WeightJob(NamedTuple):
    """Operands of one call, all int64."""

    w: int  # (out_features, in_features) spec.dtype
    packed: int  # (blocks, steps, 4, 64) uint8
    scale: int  # () or (out_features,) float32
    out_features: int
    in_features: int
    fork: int
    threads: int
    counters: int
    sums: int  # (blocks,) float64


@jit
def magnitude_sum(spec, address, count):
    """Sum of |w| of `count` weights, in float64: 32 partial sums, added in a fixed order, then the rest one by one."""
    sums = zero_doubles()
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        sums = add_magnitudes(sums, spec.dtype, address, i)
    total = add_lanes(sums)
    for i in range(whole, count):
        total += np.float64(abs(load_float(spec.dtype, address, i)))
    return total


@jit
def add_up(spec, job, blocks):
    """The first phase of a team: the sum of each block's magnitudes; returns when all are there."""
    sums, block = pointer(job.sums, types.float64), draw(job.counters)
    while block < blocks:
        first = block * OUTPUTS
        count = (least(first + OUTPUTS, job.out_features) - first) * job.in_features
        sums[block] = magnitude_sum(spec, job.w + first * job.in_features * spec.num_bytes, count)
        done(job.counters)
        block = draw(job.counters)
    wait(job.counters, blocks)


@jit
def scale_of(job, blocks):
    """The scale, from the sums of blocks."""
    sums, total = pointer(job.sums, types.float64), 0.0
    for block in range(blocks):
        total += sums[block]
    mean = np.float32(total / (job.out_features * job.in_features))
    return EPS if mean < EPS else mean  # NaN stays


@jit
def last_word(spec, w, count, half):
    """The word of the last inputs of a row, fewer than 16."""
    word = ZEROS
    for k in range(count):
        value, shift = load_float(spec.dtype, w, k), 8 * (k % 4) + 2 * (k // 4)
        word += (1 if value > half else (-1 if value < -half else 0)) << shift
    return np.int32(word)


@jit
def code_block(spec, job, block, half):
    """The words of 64 outputs."""
    whole, rest = job.in_features // INPUTS, job.in_features % INPUTS
    steps = whole + (rest > 0)
    for output in range(OUTPUTS):
        n = block * OUTPUTS + output
        word_at = job.packed + block * steps * STEP_BYTES + 4 * output
        row = job.w + n * job.in_features * spec.num_bytes
        if n >= job.out_features:
            for step in range(steps):
                store_int32(word_at + step * STEP_BYTES, 0, np.int32(ZEROS))
            continue
        for step in range(whole):
            store_int32(word_at + step * STEP_BYTES, 0, word_of(spec.dtype, row, step * INPUTS, half))
        if rest > 0:
            word = last_word(spec, row + whole * INPUTS * spec.num_bytes, rest, half)
            store_int32(word_at + whole * STEP_BYTES, 0, word)


@jit
def quantize_team(spec, job):
    """A thread of a team that quantizes."""
    blocks = (job.out_features + OUTPUTS - 1) // OUTPUTS
    add_up(spec, job, blocks)
    scale = scale_of(job, blocks)
    home, ranges = member(job.fork, job.counters), ranges_of(job.threads)
    block, offset = next_piece(job.counters, home, 0, ranges, blocks)
    while block >= 0:
        if block == 0:
            store_float32(job.scale, 0, scale)
        code_block(spec, job, block, scale * HALF)
        block, offset = next_piece(job.counters, home, offset, ranges, blocks)


@jit
def store_last(spec, word, scale, w, count):
    """The weights of a row's last word, fewer than 16."""
    for k in range(count):
        code = ((word >> (8 * (k % 4) + 2 * (k // 4))) & 3) - 1
        store_float(spec.dtype, w, k, np.float32(code) * scale)


@jit
def float_block(spec, job, block):
    """The floats of up to 64 outputs."""
    whole, rest = job.in_features // INPUTS, job.in_features % INPUTS
    steps = whole + (rest > 0)
    for n in range(block * OUTPUTS, least((block + 1) * OUTPUTS, job.out_features)):
        scale = load_float32(job.scale, n if spec.row_scales else 0)
        word_at = job.packed + block * steps * STEP_BYTES + 4 * (n - block * OUTPUTS)
        row = job.w + n * job.in_features * spec.num_bytes
        for step in range(whole):
            word = load_int32(word_at + step * STEP_BYTES, 0)
            store_word(spec.dtype, word, scale, row, step * INPUTS)
        if rest > 0:
            word = load_int32(word_at + whole * STEP_BYTES, 0)
            store_last(spec, word, scale, row + whole * INPUTS * spec.num_bytes, rest)


@jit
def dequantize_team(spec, job):
    """A thread of a team that turns codes into floats."""
    blocks = (job.out_features + OUTPUTS - 1) // OUTPUTS
    home, ranges = member(job.fork, job.counters), ranges_of(job.threads)
    block, offset = next_piece(job.counters, home, 0, ranges, blocks)
    while block >= 0:
        float_block(spec, job, block)
        block, offset = next_piece(job.counters, home, offset, ranges, blocks)


@kernel
def run_quantize(spec, fork, threads, w, packed, scale, out_features, in_features, workspace):
    """The whole op: addresses and numbers, int64."""
    sums = workspace + COUNTERS * COUNTER_BYTES
    job = WeightJob(w, packed, scale, out_features, in_features, fork, threads, workspace, sums)
    reset(job.counters, threads)
    run_team(fork, threads, quantize_team, (spec, job))


@kernel
def run_dequantize(spec, fork, threads, w, packed, scale, out_features, in_features, workspace):
    """The whole op: addresses and numbers, int64."""
    job = WeightJob(w, packed, scale, out_features, in_features, fork, threads, workspace, 0)
    reset(job.counters, threads)
    run_team(fork, threads, dequantize_team, (spec, job))


SIGNATURE = (types.int64,) * 8


def bind_quantize(problem: Problem, config: TeamConfig) -> Bound:
    """w (N, K) -> w_packed, w_scale."""
    entry = compiled(run_quantize, StaticType(WeightSpec(problem.x_dtype)), *SIGNATURE)
    return bind_weight(("weight", "w_packed", "w_scale"), entry, problem, config)


def bind_dequantize(problem: Problem, config: TeamConfig) -> Bound:
    """w_packed, w_scale -> w (N, K)."""
    spec = WeightSpec(problem.y_dtype, problem.scale == "row")
    entry = compiled(run_dequantize, StaticType(spec), *SIGNATURE)
    return bind_weight(("w", "w_packed", "w_scale"), entry, problem, config)


def bind_weight(operands: Operands, entry: Entry, problem: Problem, config: TeamConfig) -> Bound:
    """Return a kernel bound to a problem; its workspace holds counters, and a sum for each block of outputs."""
    num_bytes = COUNTERS * COUNTER_BYTES + 8 * -(-problem.out_features // OUTPUTS)
    sizes = problem.out_features, problem.in_features
    return Bound(operands, lambda rows: entry, lambda rows: sizes, lambda rows, threads: num_bytes, config.max_threads)


def configs(problem: Problem) -> tuple[Config, ...]:
    """Numbers of threads."""
    return likely_teams([None], problem.out_features * problem.in_features < SMALL_WORK)


def unsupported_reason(problem: Problem) -> str | None:
    """What these kernels refuse, in words."""
    if problem.layout != I2_TILES.name:
        return f"knows the layout {I2_TILES.name}, not {problem.layout!r}"
    return "takes tensor and row scales, not group scales" if problem.scale == "group" else None


KERNELS = (
    Kernel("numba.quantize_weight", "quantize_weight", bind_quantize, configs, unsupported_reason),
    Kernel("numba.dequantize_weight", "dequantize_weight", bind_dequantize, configs, unsupported_reason),
)
