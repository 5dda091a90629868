"""RMSNorm, activation quantization, and their fusions; rows are shared out among threads.

    rms_norm         y = x * (1 / sqrt(mean x^2 + eps)) * weight                     (arXiv 1910.07467)
    add_rms_norm     the same of x + delta, rounded to x's dtype, which it gives back, too
    relu2_mul_norm   the same of relu(gate)^2 * up                                    (arXiv 2504.12285)
    silu_mul_norm    the same of silu(gate) * up, with or without the norm            (arXiv 2002.05202)
    sigmoid_mul_norm the same of sigmoid(gate) * up
    gelu_mul_norm    the same of gelu(gate) * up, by tanh                             (arXiv 1606.08415)
    *_quantize       codes and scale of y, which is not rounded before

A fused op keeps a row's float32 values in scratch memory. The sum of squares runs in 32 partial sums, whatever the CPU.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import ROW_STRIDE, Bound, Operands, round_up, without
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.elements import (
    ELEMENT_BYTES,
    exp_float32,
    load_float,
    load_float32,
    store_float,
    store_float32,
)
from bitnet_jit.kernels.numba.intrinsics.lanes import LANES, add_lanes, add_squares, zero_floats
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, F1, least, most
from bitnet_jit.kernels.numba.rowwise.launch import CHUNK_ELEMENTS, bind_rows, configs, unsupported_reason
from bitnet_jit.kernels.numba.rowwise.quantize import SEGMENT, quantize_row
from bitnet_jit.kernels.numba.threads.parallel import COUNTER_BYTES, MEMBERS, TEAM_BYTES, draw, reset, run_team
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem

MIN_POWER, INFINITY = np.float32(-88), np.float32(np.inf)  # for smaller ones `exp_float32` is cut off
GELU_2U, GELU_CUBE = np.float32(2 * (2 / np.pi) ** 0.5), np.float32(0.044715)
GATES = {  # of the ops that multiply
    "relu2_mul_norm": "relu2",
    "relu2_mul_norm_quantize": "relu2",
    "silu_mul_norm": "silu",
    "silu_mul_norm_quantize": "silu",
    "sigmoid_mul_norm": "sigmoid",
    "gelu_mul_norm": "gelu",
}


@dataclass(frozen=True)
class RowSpec:
    """The properties that a row-wise kernel is compiled for.

    Attributes:
        op: the op's name.
        x_dtype: dtype of x, or of gate and up.
        weight_dtype: dtype of the norm's weight.
        normalizes: whether there is a norm.
    """

    op: str
    x_dtype: str
    weight_dtype: str
    normalizes: bool
    float32: str = "float32"  # the dtype of values in scratch memory

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]

    @property
    def quantizes(self) -> bool:
        return "x_q" in OPERANDS[self.op]

    @property
    def multiplies(self) -> bool:
        return self.op in GATES

    @property
    def takes_exp(self) -> bool:
        return GATES.get(self.op) in ("silu", "sigmoid", "gelu")

    @property
    def takes_sigmoid(self) -> bool:
        return GATES.get(self.op) == "sigmoid"

    @property
    def takes_gelu(self) -> bool:
        return GATES.get(self.op) == "gelu"

    @property
    def adds(self) -> bool:
        return "delta" in OPERANDS[self.op]

    @property
    def widens(self) -> bool:
        return self.multiplies or self.normalizes


class RowJob(NamedTuple):
    """The operands of one call, all int64 but eps; one that is not used is 0."""

    x: int  # (rows, features) spec.x_dtype; the gate of ops that multiply
    up: int  # (rows, features) spec.x_dtype; what is added to x
    row_stride: int  # elements from row to row of gate, and of up
    weight: int  # (features,) spec.weight_dtype
    eps: np.float64
    total: int  # (rows, features) spec.x_dtype: the sums
    y: int  # (rows, features): int8 codes, or spec.x_dtype
    scale: int  # (rows,) float32
    rows: int
    features: int
    counters: int
    scratch: int  # (threads, features) float32


@jit
def square_sum(values, count):
    """Sum of squares of float32 values: 32 partial sums, added in a fixed order, then the rest one by one."""
    sums = zero_floats()
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        sums = add_squares(sums, values + 4 * i)
    total = add_lanes(sums)
    for i in range(whole, count):
        value = load_float32(values, i)
        total += value * value
    return total


@jit
def widen(spec, job, row, values):
    """Store a row of x, of x + delta, or of the gate's function times up, as float32 values."""
    first = row * job.features
    if spec.multiplies:
        first = row * job.row_stride
        for i in range(job.features):
            gate = load_float(spec.x_dtype, job.x, first + i)
            if spec.takes_exp:
                power = GELU_2U * (gate + GELU_CUBE * gate * gate * gate) if spec.takes_gelu else gate
                inverse = F1 + exp_float32(-power)
                over = F1 if spec.takes_sigmoid else gate
                gate = over / (inverse if not power < MIN_POWER else INFINITY)
            else:
                gate = F0 if gate <= F0 else gate  # NaN stays
                gate = gate * gate
            store_float32(values, i, gate * load_float(spec.x_dtype, job.up, first + i))
    elif spec.adds:
        for i in range(job.features):
            total = load_float(spec.x_dtype, job.x, first + i) + load_float(spec.x_dtype, job.up, first + i)
            store_float(spec.x_dtype, job.total, first + i, total)
        for i in range(job.features):
            store_float32(values, i, load_float(spec.x_dtype, job.total, first + i))
    else:
        for i in range(job.features):
            store_float32(values, i, load_float(spec.x_dtype, job.x, first + i))


@jit
def normalize(spec, job, values):
    """Multiply values by 1 / sqrt(mean of squares + eps), then by weight."""
    mean = square_sum(values, job.features) / np.float32(job.features)
    factor = F1 / np.sqrt(mean + np.float32(job.eps))
    for i in range(job.features):
        weight = load_float(spec.weight_dtype, job.weight, i)
        store_float32(values, i, load_float32(values, i) * factor * weight)


@jit
def run_row(spec, job, row, values):
    """Run one row; `values` is the address of this thread's scratch memory."""
    first = row * job.features
    if spec.widens:
        widen(spec, job, row, values)
    if spec.normalizes:
        normalize(spec, job, values)
    whole = job.features // SEGMENT
    if not spec.quantizes:
        for i in range(job.features):
            store_float(spec.x_dtype, job.y, first + i, load_float32(values, i))
    elif spec.widens:
        quantize_row(spec.float32, values, job.features, job.y + first, whole, SEGMENT, job.scale, row)
    else:
        x = job.x + first * spec.x_bytes
        quantize_row(spec.x_dtype, x, job.features, job.y + first, whole, SEGMENT, job.scale, row)


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
            run_row(spec, job, row, values)
        piece = draw(job.counters)


@kernel
def run(spec, fork, threads, x, up, row_stride, weight, eps, total, y, scale, rows, features, workspace):
    """Run the whole op: addresses and numbers, int64, but eps, float64."""
    job = RowJob(x, up, row_stride, weight, eps, total, y, scale, rows, features, workspace, workspace + TEAM_BYTES)
    reset(job.counters, 1)
    run_team(fork, threads, team, (spec, job))


INT, FLOAT = types.int64, types.float64
RUN_SIGNATURE = (INT, INT, INT, INT, INT, INT, FLOAT, INT, INT, INT, INT, INT, INT)
OPERANDS: dict[str, Operands] = {  # of each op, in the order of `run`
    "quantize_activation": ("x", None, None, None, 0.0, None, "x_q", "x_scale"),
    "rms_norm": ("x", None, None, "weight", "eps", None, "y", None),
    "rms_norm_quantize": ("x", None, None, "weight", "eps", None, "x_q", "x_scale"),
    "add_rms_norm": ("x", "delta", None, "weight", "eps", "total", "y", None),
    "add_rms_norm_quantize": ("x", "delta", None, "weight", "eps", "total", "x_q", "x_scale"),
    "relu2_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "relu2_mul_norm_quantize": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "x_q", "x_scale"),
    "silu_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "silu_mul_norm_quantize": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "x_q", "x_scale"),
    "sigmoid_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
    "gelu_mul_norm": ("gate", "up", ROW_STRIDE, "weight", "eps", None, "y", None),
}


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    spec = RowSpec(
        problem.op,
        problem.x_dtype,
        problem.bias or "float32",  # both branches are compiled, whether there is a norm or not
        problem.op != "quantize_activation" and problem.bias != "",
    )
    entry = compiled(run, StaticType(spec), *RUN_SIGNATURE)
    operands = OPERANDS[problem.op] if problem.bias else without(OPERANDS[problem.op], "weight")
    row_bytes = round_up(4 * problem.in_features, 64)
    return bind_rows(operands, entry, problem, TEAM_BYTES, row_bytes, config.max_threads)


KERNELS = tuple(Kernel(f"numba.{op}", op, bind, configs, unsupported_reason) for op in OPERANDS)
