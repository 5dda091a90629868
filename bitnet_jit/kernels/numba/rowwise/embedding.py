"""`embedding`: the rows of token ids in a table, y = table[id], or table[id] * table_scale[id] of int8.

Rows are shared out among threads. An id outside of the table gives a row of NaN.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound, without
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import (
    ELEMENT_BYTES,
    load_float,
    load_float32,
    load_int8,
    load_int32,
    store_float,
)
from bitnet_jit.kernels.numba.rowwise.launch import configs, unsupported_reason
from bitnet_jit.kernels.numba.rowwise.row_team import team
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES, reset, run_team
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class EmbeddingSpec:
    """The properties that the kernel is compiled for: the dtypes of ids, table and result."""

    ids_dtype: str
    table_dtype: str
    dtype: str

    @property
    def words(self) -> int:
        """Return the int32 words of an id."""
        return 2 if self.ids_dtype == "int64" else 1

    @property
    def table_bytes(self) -> int:
        return 1 if self.table_dtype == "int8" else ELEMENT_BYTES[self.table_dtype]

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def run_row(self):
        """Return the jitted function of a row; see `row_team.py`."""
        return look_up_row

    @property
    def write_row(self):
        """Return the jitted function that writes a row of the table; see `look_up_row`."""
        return scale_codes if self.table_dtype == "int8" else copy_floats


class EmbeddingJob(NamedTuple):
    """The operands of one call, all int64."""

    ids: int  # (rows,) spec.ids_dtype
    table: int  # (size, features) spec.table_dtype
    table_scale: int  # (size,) float32, of a table of int8
    y: int  # (rows, features) spec.dtype
    rows: int
    features: int
    size: int
    counters: int


@jit
def id_of(spec, job, row):
    """Return the id of a row, or -1 where it is outside of the table."""
    token = np.int64(load_int32(job.ids, row * spec.words))
    if spec.words == 2 and load_int32(job.ids, row * 2 + 1) != 0:  # the high word, behind the low one
        token = np.int64(-1)
    return token if token < job.size else np.int64(-1)


@jit
def copy_floats(spec, job, token, y):
    """Write a row of a table of floats."""
    x = job.table + token * job.features * spec.table_bytes
    for i in range(job.features):
        store_float(spec.dtype, y, i, load_float(spec.table_dtype, x, i))


@jit
def scale_codes(spec, job, token, y):
    """Write a row of a table of int8, times its scale."""
    x, scale = job.table + token * job.features, load_float32(job.table_scale, token)
    for i in range(job.features):
        store_float(spec.dtype, y, i, np.float32(load_int8(x, i)) * scale)


write_row = one_of(lambda spec: spec.write_row)  # jitted: spec, job, token, address of y


@jit
def look_up_row(spec, job, row):
    """Write one row of the result: NaN where its id is outside of the table."""
    token, y = id_of(spec, job, row), job.y + row * job.features * spec.num_bytes
    if token >= 0:
        write_row(spec, job, token, y)
    else:
        for i in range(job.features):
            store_float(spec.dtype, y, i, np.float32(np.nan))


@kernel
def run(spec, fork, threads, ids, table, table_scale, y, rows, features, size, workspace):
    """Run the whole op: addresses and numbers, int64."""
    job = EmbeddingJob(ids, table, table_scale, y, rows, features, size, workspace)
    reset(job.counters, 1)
    run_team(fork, threads, team, (spec, job))


SIGNATURE = (types.int64,) * 10
OPERANDS = ("ids", "table", "table_scale", "y")


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    spec = EmbeddingSpec(problem.x_dtype, problem.w_dtype, problem.y_dtype)
    entry = compiled(run, StaticType(spec), *SIGNATURE)
    return Bound(
        OPERANDS if problem.w_dtype == "int8" else without(OPERANDS, "table_scale"),
        lambda rows: entry,
        lambda rows: (rows, problem.in_features, problem.out_features),
        lambda rows, threads: TEAM_BYTES,
        config.max_threads,
    )


KERNELS = (Kernel("numba.embedding", "embedding", bind, configs, unsupported_reason),)
