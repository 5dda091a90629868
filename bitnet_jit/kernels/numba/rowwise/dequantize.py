"""`dequantize_activation`: codes times the scale of their row as floats, x = x_q * x_scale; rows are shared out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES, load_float32, load_int8, store_float
from bitnet_jit.kernels.numba.rowwise.launch import bind_rows, configs, unsupported_reason
from bitnet_jit.kernels.numba.rowwise.row_team import team
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES, reset, run_team
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class ActivationSpec:
    """The property that the kernel is compiled for: the dtype of the floats."""

    dtype: str

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def run_row(self):
        """Return the jitted function of a row; see `row_team.py`."""
        return run_row


class ActivationJob(NamedTuple):
    """The operands of one call, all int64."""

    x_q: int  # (rows, features) int8
    x_scale: int  # (rows,) float32
    x: int  # (rows, features) spec.dtype
    rows: int
    features: int
    counters: int


@jit
def run_row(spec, job, row):
    """Dequantize one row."""
    scale, first = load_float32(job.x_scale, row), row * job.features
    codes, x = job.x_q + first, job.x + first * spec.num_bytes
    for i in range(job.features):
        store_float(spec.dtype, x, i, np.float32(load_int8(codes, i)) * scale)


@kernel
def run(spec, fork, threads, x_q, x_scale, x, rows, features, workspace):
    """Run the whole op: addresses and numbers, int64."""
    job = ActivationJob(x_q, x_scale, x, rows, features, workspace)
    reset(job.counters, 1)
    run_team(fork, threads, team, (spec, job))


SIGNATURE = (types.int64,) * 8


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    entry = compiled(run, StaticType(ActivationSpec(problem.y_dtype)), *SIGNATURE)
    return bind_rows(("x_q", "x_scale", "x"), entry, problem, TEAM_BYTES, 0, config.max_threads)


KERNELS = (Kernel("numba.dequantize_activation", "dequantize_activation", bind, configs, unsupported_reason),)
