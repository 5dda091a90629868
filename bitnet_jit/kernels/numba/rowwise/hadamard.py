"""Hadamard rotations of rows, alone or behind a norm or a gate; rows are shared out among threads.

    hadamard                 y = H (signs * x), per run of `block` features
    inverse_hadamard         y = signs * (H x)
    rms_norm_hadamard        hadamard of a norm; add_rms_norm_hadamard, of a sum's norm
    silu_mul_hadamard        hadamard of silu(gate) * up

Stages run in the order that `reference/hadamard.py` fixes, the first seven on vectors in registers, later ones three at
a time over a block in scratch memory. A fused op keeps a row's float32 values there, as those of norm.py do.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import ROW_STRIDE, Bound, Operands, round_up, without
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.butterflies import GROUP, LANES, first_stages, join_2, join_4, join_8
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES, load_float32, store_float
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.rowwise.launch import CHUNK_ELEMENTS, configs
from bitnet_jit.kernels.numba.rowwise.norm import normalize, widen
from bitnet_jit.kernels.numba.threads.parallel import COUNTER_BYTES, MEMBERS, TEAM_BYTES, draw, reset, run_team
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem

INVERSE = "inverse_hadamard"


@dataclass(frozen=True)
class RotationSpec:
    """The properties that a kernel is compiled for.

    Attributes:
        op: the op's name.
        x_dtype: dtype of x, or of gate and up.
        weight_dtype: dtype of the norm's weight.
        vectors: vectors whose first stages run together.
        signed: whether there are signs.
    """

    op: str
    x_dtype: str
    weight_dtype: str
    vectors: int
    signed: bool
    float32: str = "float32"  # the dtype of values in scratch memory

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]

    @property
    def normalizes(self) -> bool:
        return "weight" in OPERANDS[self.op]

    @property
    def multiplies(self) -> bool:
        return "gate" in OPERANDS[self.op]

    @property
    def takes_exp(self) -> bool:
        return self.multiplies

    @property
    def takes_sigmoid(self) -> bool:
        return False  # the gate is silu

    @property
    def takes_gelu(self) -> bool:
        return False  # the gate is silu

    @property
    def adds(self) -> bool:
        return "delta" in OPERANDS[self.op]

    @property
    def widens(self) -> bool:
        return self.multiplies or self.normalizes

    @property
    def signs_first(self) -> bool:
        return self.signed and self.op != INVERSE

    @property
    def signs_last(self) -> bool:
        return self.signed and self.op == INVERSE


class RotationJob(NamedTuple):
    """The operands of one call, all int64 but eps and factor; one that is not used is 0."""

    x: int  # (rows, features) spec.x_dtype; the gate
    up: int  # (rows, features) spec.x_dtype; what is added to x
    row_stride: int  # elements from row to row of gate, and of up
    weight: int  # (features,) spec.weight_dtype
    eps: np.float64
    total: int  # (rows, features) spec.x_dtype: the sums
    signs: int  # (features,) float32
    factor: np.float64  # 1 / sqrt(block)
    y: int  # (rows, features) spec.x_dtype
    rows: int
    features: int
    block: int
    counters: int
    scratch: int  # (threads, features) float32


@jit
def rotate_block(spec, dtype, x, first, signs, block, values):
    """Run all stages of a block of x, elements of `dtype` (static) from `first` on, into float32 values."""
    stride = LANES * spec.vectors
    for i in range(0, block, stride):
        first_stages(spec, dtype, x, first + i, signs + 4 * i, values + 4 * i)
    while 8 * stride <= block:
        for i in range(0, block, 8 * stride):
            for j in range(i, i + stride, LANES):
                join_8(values + 4 * j, 4 * stride)
        stride *= 8
    if 4 * stride <= block:
        for j in range(0, stride, LANES):
            join_4(values + 4 * j, 4 * stride)
    elif 2 * stride <= block:
        for j in range(0, stride, LANES):
            join_2(values + 4 * j, 4 * stride)


@jit
def write_block(spec, job, values, first, y):
    """Multiply a block of values by the factor, and by signs where they come last; write them as y from `first` on."""
    factor = np.float32(job.factor)
    if spec.signs_last:
        for i in range(job.block):
            signed = load_float32(values, i) * factor * load_float32(job.signs, first + i)
            store_float(spec.x_dtype, y, first + i, signed)
    else:
        for i in range(job.block):
            store_float(spec.x_dtype, y, first + i, load_float32(values, i) * factor)


@jit
def rotate_row(spec, job, row, values):
    """Rotate one row; `values` is the address of this thread's scratch memory."""
    x, y = job.x + row * job.features * spec.x_bytes, job.y + row * job.features * spec.x_bytes
    if spec.widens:
        widen(spec, job, row, values)
    if spec.normalizes:
        normalize(spec, job, values)
    for first in range(0, job.features, job.block):
        signs = job.signs + 4 * first
        if spec.widens:
            rotate_block(spec, spec.float32, values, first, signs, job.block, values + 4 * first)
            write_block(spec, job, values + 4 * first, first, y)
        else:
            rotate_block(spec, spec.x_dtype, x, first, signs, job.block, values)
            write_block(spec, job, values, first, y)


@jit
def team(spec, job):
    """Run the parallel body: take scratch memory, then draw chunks of rows."""
    number = atomic_add(job.counters + MEMBERS * COUNTER_BYTES, 1)
    values = job.scratch + number * ((job.features + 15) // 16 * 64)
    chunk = most(1, CHUNK_ELEMENTS // job.features)
    pieces = (job.rows + chunk - 1) // chunk
    piece = draw(job.counters)
    while piece < pieces:
        for row in range(piece * chunk, least((piece + 1) * chunk, job.rows)):
            rotate_row(spec, job, row, values)
        piece = draw(job.counters)


@kernel
def run(spec, fork, threads, x, up, row_stride, weight, eps, total, signs, factor, y, rows, features, block, workspace):
    """Run the whole op: addresses and numbers, int64, but eps and factor, float64."""
    place = workspace + TEAM_BYTES
    job = RotationJob(x, up, row_stride, weight, eps, total, signs, factor, y, rows, features, block, workspace, place)
    reset(job.counters, 1)
    run_team(fork, threads, team, (spec, job))


INT, FLOAT = types.int64, types.float64
SIGNATURE = (INT, INT, INT, INT, INT, INT, FLOAT, INT, INT, FLOAT, INT, INT, INT, INT, INT)
OPERANDS: dict[str, Operands] = {  # of each op, in the order of `run`, but for the factor before y
    "hadamard": ("x", None, None, None, 0.0, None, "signs", "y"),
    INVERSE: ("x", None, None, None, 0.0, None, "signs", "y"),
    "rms_norm_hadamard": ("x", None, None, "weight", "eps", None, "signs", "y"),
    "add_rms_norm_hadamard": ("x", "delta", None, "weight", "eps", "total", "signs", "y"),
    "silu_mul_hadamard": ("gate", "up", ROW_STRIDE, None, 0.0, None, "signs", "y"),
}
PLAIN = ("hadamard", INVERSE)  # whose signs may be absent


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    signed = problem.op not in PLAIN or problem.bias != ""
    weight_dtype = "float32" if problem.op in PLAIN else problem.bias or "float32"
    vectors = min(GROUP, problem.block // LANES)
    spec = RotationSpec(problem.op, problem.x_dtype, weight_dtype, vectors, signed)
    entry = compiled(run, StaticType(spec), *SIGNATURE)
    *operands, y = OPERANDS[problem.op] if signed else without(OPERANDS[problem.op], "signs")
    row_bytes = round_up(4 * problem.in_features, 64)
    return Bound(
        (*operands, problem.block**-0.5, y),
        lambda rows: entry,
        lambda rows: (rows, problem.in_features, problem.block),
        lambda rows, threads: TEAM_BYTES + threads * row_bytes,
        config.max_threads,
    )


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, or None."""
    return None if problem.block >= LANES else f"blocks of {problem.block} are smaller than {LANES}"


KERNELS = tuple(Kernel(f"numba.{op}", op, bind, configs, unsupported_reason) for op in OPERANDS)
