"""`quantize_weight`: a float weight to the codes that kernels read.

    w_scale = max(mean|w|, EPS)          summed in float64, rounded once to float32          (arXiv 2402.17764, eq. 1-3)
    w_q     = clip(round(w / w_scale), -1, 1), packed as `i2/n64k16`

A team first adds up the magnitudes of each block, then each thread adds up the blocks in one order: the scale is the
same for any number of threads. Why a comparison with half the scale is enough is told in
`kernels/triton/weights/quantize_weight.py`.
"""

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, store_float32, store_int32
from bitnet_jit.kernels.numba.intrinsics.lanes import LANES, add_lanes, add_magnitudes, zero_doubles
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import FLOAT_EPS, least
from bitnet_jit.kernels.numba.intrinsics.words import INPUTS, ZEROS, word_of
from bitnet_jit.kernels.numba.layout import BLOCK, STEP_BYTES
from bitnet_jit.kernels.numba.threads.parallel import (
    TEAM_BYTES,
    done,
    draw,
    member,
    next_piece,
    ranges_of,
    reset,
    run_team,
    wait,
)
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.kernels.numba.weights.launch import (
    SIGNATURE,
    WeightJob,
    WeightSpec,
    bind_weight,
    configs,
    unsupported_reason,
)
from bitnet_jit.problem import Problem

HALF = np.float32(0.5)


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
    """Sum up each block's magnitudes: the first phase of a team. Return when all sums are there."""
    sums, block = pointer(job.sums, types.float64), draw(job.counters)
    while block < blocks:
        first = block * BLOCK
        count = (least(first + BLOCK, job.out_features) - first) * job.in_features
        sums[block] = magnitude_sum(spec, job.w + first * job.in_features * spec.num_bytes, count)
        done(job.counters)
        block = draw(job.counters)
    wait(job.counters, blocks)


@jit
def scale_of(job, blocks):
    """Return the scale, from the sums of blocks."""
    sums, total = pointer(job.sums, types.float64), 0.0
    for block in range(blocks):
        total += sums[block]
    mean = np.float32(total / (job.out_features * job.in_features))
    return FLOAT_EPS if mean < FLOAT_EPS else mean  # NaN stays


@jit
def last_word(spec, w, count, half):
    """Return the word of the last inputs of a row, fewer than 16."""
    word = ZEROS
    for k in range(count):
        value, shift = load_float(spec.dtype, w, k), 8 * (k % 4) + 2 * (k // 4)
        word += (1 if value > half else (-1 if value < -half else 0)) << shift
    return np.int32(word)


@jit
def code_block(spec, job, block, half):
    """Store the words of 64 outputs."""
    whole, rest = job.in_features // INPUTS, job.in_features % INPUTS
    steps = whole + (rest > 0)
    for output in range(BLOCK):
        n = block * BLOCK + output
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
def team(spec, job):
    """Run the parallel body: sum up magnitudes, then draw blocks to quantize."""
    blocks = (job.out_features + BLOCK - 1) // BLOCK
    add_up(spec, job, blocks)
    scale = scale_of(job, blocks)
    home, ranges = member(job.fork, job.counters), ranges_of(job.threads)
    block, offset = next_piece(job.counters, home, 0, ranges, blocks)
    while block >= 0:
        if block == 0:
            store_float32(job.scale, 0, scale)
        code_block(spec, job, block, scale * HALF)
        block, offset = next_piece(job.counters, home, offset, ranges, blocks)


@kernel
def run(spec, fork, threads, w, packed, scale, out_features, in_features, workspace):
    """Run the whole op: addresses and numbers, int64."""
    sums = workspace + TEAM_BYTES
    job = WeightJob(w, packed, scale, out_features, in_features, fork, threads, workspace, sums)
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled: w (N, K) to w_packed, w_scale."""
    entry = compiled(run, StaticType(WeightSpec(problem.x_dtype)), *SIGNATURE)
    return bind_weight(("weight", "w_packed", "w_scale"), entry, problem, config)


KERNELS = (Kernel("numba.quantize_weight", "quantize_weight", bind, configs, unsupported_reason),)
