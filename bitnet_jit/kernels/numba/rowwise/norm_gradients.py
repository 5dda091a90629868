"""`rms_norm_gradients`: the gradients of y = x r w with r = 1 / sqrt(mean x^2 + eps), in float32 (arXiv 1910.07467).

    dx = r (dy w - x r^2 mean(dy w x))        dw = sum over rows of dy x r

Rows are cut into at most 64 pieces, each of which leaves its sum of dw in scratch memory. When all are there, threads
add them up, a block of features at a time, in one order: dw is the same for any number of threads.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound, round_up
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, load_float32, store_float, store_float32
from bitnet_jit.kernels.numba.intrinsics.lanes import LANES, add_lanes, add_products, zero_floats
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, F1, least
from bitnet_jit.kernels.numba.rowwise.launch import bind_rows, configs, unsupported_reason
from bitnet_jit.kernels.numba.rowwise.norm import square_sum
from bitnet_jit.kernels.numba.threads.parallel import (
    COUNTER_BYTES,
    MEMBERS,
    TEAM_BYTES,
    done,
    draw,
    next_piece,
    ranges_of,
    reset,
    run_team,
    wait,
)
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem

MAX_PIECES = 64
BLOCK = 256  # features that are added up at a time
OPERANDS = ("dy", "x", "weight", "eps", "dx", "dw")  # in the order of `run`


@dataclass(frozen=True)
class NormSpec:
    """The properties that a kernel is compiled for: the dtype of x, dy and dx, and that of the norm's weight."""

    x_dtype: str
    weight_dtype: str


class NormJob(NamedTuple):
    """The operands of one call, all int64 but eps."""

    dy: int  # (rows, features) spec.x_dtype
    x: int  # (rows, features) spec.x_dtype
    weight: int  # (features,) spec.weight_dtype
    eps: np.float64
    dx: int  # (rows, features) spec.x_dtype
    dw: int  # (features,) spec.weight_dtype
    rows: int
    features: int
    threads: int
    counters: int
    partials: int  # (MAX_PIECES, stride) bytes: float32 sums of dw
    scratch: int  # (threads, 2, stride) bytes: a row of x, and of dy w
    stride: int


@jit
def product_sum(a, b, count):
    """Sum of products of float32 values, in the order of `square_sum`."""
    sums = zero_floats()
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        sums = add_products(sums, a + 4 * i, b + 4 * i)
    total = add_lanes(sums)
    for i in range(whole, count):
        total += load_float32(a, i) * load_float32(b, i)
    return total


@jit
def gradient_row(spec, job, row, values, partial):
    """Compute dx of one row, and add its part of dw to the sums at `partial`."""
    first, scaled, count = row * job.features, values + job.stride, np.float32(job.features)
    for i in range(job.features):
        store_float32(values, i, load_float(spec.x_dtype, job.x, first + i))
        dy, weight = load_float(spec.x_dtype, job.dy, first + i), load_float(spec.weight_dtype, job.weight, i)
        store_float32(scaled, i, dy * weight)
    r = F1 / np.sqrt(square_sum(values, job.features) / count + np.float32(job.eps))
    back = r * r * (product_sum(values, scaled, job.features) / count)
    for i in range(job.features):
        store_float(spec.x_dtype, job.dx, first + i, r * (load_float32(scaled, i) - load_float32(values, i) * back))
    for i in range(job.features):
        part = load_float(spec.x_dtype, job.dy, first + i) * (load_float32(values, i) * r)
        store_float32(partial, i, load_float32(partial, i) + part)


@jit
def run_piece(spec, job, piece, pieces, values):
    """Run the rows of one piece, and sum up their dw."""
    partial = job.partials + piece * job.stride
    for i in range(job.features):
        store_float32(partial, i, F0)
    for row in range(job.rows * piece // pieces, job.rows * (piece + 1) // pieces):
        gradient_row(spec, job, row, values, partial)


@jit
def add_block(spec, job, block, pieces):
    """Store dw of a block of features: the sums of all pieces."""
    first, last = block * BLOCK, least((block + 1) * BLOCK, job.features)
    for piece in range(1, pieces):
        partial = job.partials + piece * job.stride
        for i in range(first, last):
            store_float32(job.partials, i, load_float32(job.partials, i) + load_float32(partial, i))
    for i in range(first, last):
        store_float(spec.weight_dtype, job.dw, i, load_float32(job.partials, i))


@jit
def team(spec, job):
    """Run the parallel body: draw pieces of rows, then blocks of features."""
    number = atomic_add(job.counters + MEMBERS * COUNTER_BYTES, 1)
    values, pieces = job.scratch + 2 * number * job.stride, least(job.rows, MAX_PIECES)
    piece = draw(job.counters)
    while piece < pieces:
        run_piece(spec, job, piece, pieces, values)
        done(job.counters)
        piece = draw(job.counters)
    wait(job.counters, pieces)
    ranges, blocks = ranges_of(job.threads), (job.features + BLOCK - 1) // BLOCK
    block, offset = next_piece(job.counters, number % ranges, 0, ranges, blocks)
    while block >= 0:
        add_block(spec, job, block, pieces)
        block, offset = next_piece(job.counters, number % ranges, offset, ranges, blocks)


@kernel
def run(spec, fork, threads, dy, x, weight, eps, dx, dw, rows, features, workspace):
    """Run the whole op: addresses and numbers, int64, but eps, float64."""
    stride = (features + 15) // 16 * 64
    partials = workspace + TEAM_BYTES
    scratch = partials + MAX_PIECES * stride
    job = NormJob(dy, x, weight, eps, dx, dw, rows, features, threads, workspace, partials, scratch, stride)
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


INT, FLOAT = types.int64, types.float64
SIGNATURE = (INT, INT, INT, INT, INT, FLOAT, INT, INT, INT, INT, INT)


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    entry = compiled(run, StaticType(NormSpec(problem.x_dtype, problem.bias)), *SIGNATURE)
    stride = round_up(4 * problem.in_features, 64)
    fixed = TEAM_BYTES + MAX_PIECES * stride
    return bind_rows(OPERANDS, entry, problem, fixed, 2 * stride, config.max_threads)


KERNELS = (Kernel("numba.rms_norm_gradients", "rms_norm_gradients", bind, configs, unsupported_reason),)
