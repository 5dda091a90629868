"""`dequantize_weight`: codes to floats, w = w_q * w_scale, rounded to its dtype."""

import numpy as np

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.elements import load_float32, load_int32, store_float
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.intrinsics.words import INPUTS, store_word
from bitnet_jit.kernels.numba.layout import BLOCK, STEP_BYTES
from bitnet_jit.kernels.numba.threads.parallel import member, next_piece, ranges_of, reset, run_team
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


@jit
def store_last(spec, word, scale, w, count):
    """Store the weights of a row's last word, fewer than 16."""
    for k in range(count):
        code = ((word >> (8 * (k % 4) + 2 * (k // 4))) & 3) - 1
        store_float(spec.dtype, w, k, np.float32(code) * scale)


@jit
def float_block(spec, job, block):
    """Store the floats of up to 64 outputs."""
    whole, rest = job.in_features // INPUTS, job.in_features % INPUTS
    steps = whole + (rest > 0)
    for n in range(block * BLOCK, least((block + 1) * BLOCK, job.out_features)):
        scale = load_float32(job.scale, n if spec.row_scales else 0)
        word_at = job.packed + block * steps * STEP_BYTES + 4 * (n - block * BLOCK)
        row = job.w + n * job.in_features * spec.num_bytes
        for step in range(whole):
            word = load_int32(word_at + step * STEP_BYTES, 0)
            store_word(spec.dtype, word, scale, row, step * INPUTS)
        if rest > 0:
            word = load_int32(word_at + whole * STEP_BYTES, 0)
            store_last(spec, word, scale, row + whole * INPUTS * spec.num_bytes, rest)


@jit
def team(spec, job):
    """Run the parallel body: draw blocks to turn into floats."""
    blocks = (job.out_features + BLOCK - 1) // BLOCK
    home, ranges = member(job.fork, job.counters), ranges_of(job.threads)
    block, offset = next_piece(job.counters, home, 0, ranges, blocks)
    while block >= 0:
        float_block(spec, job, block)
        block, offset = next_piece(job.counters, home, offset, ranges, blocks)


@kernel
def run(spec, fork, threads, w, packed, scale, out_features, in_features, workspace):
    """Run the whole op: addresses and numbers, int64."""
    job = WeightJob(w, packed, scale, out_features, in_features, fork, threads, workspace, 0)
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled: w_packed, w_scale to w (N, K)."""
    spec = WeightSpec(problem.y_dtype, problem.scale == "row")
    entry = compiled(run, StaticType(spec), *SIGNATURE)
    return bind_weight(("w", "w_packed", "w_scale"), entry, problem, config)


KERNELS = (Kernel("numba.dequantize_weight", "dequantize_weight", bind, configs, unsupported_reason),)
