"""`packed_embedding`: the rows of token ids in a packed table, y = w_q[id] * w_scale of the tensor, row or group.

A row of the table is a word of four bytes in each step of K (`decode.py` has the order of its codes), a step's bytes
apart. Rows are shared out among threads. An id outside of the table gives a row of NaN.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.numba.bound import Bound
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel, one_of
from bitnet_jit.kernels.numba.intrinsics.decode import LATE, LATE_NUMBERS
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES, load_float32, load_int32, store_float
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.intrinsics.words import INPUTS, store_word
from bitnet_jit.kernels.numba.layout import BLOCK, INPUTS_OF_LAYOUT, STEP_BYTES, T5_TILES
from bitnet_jit.kernels.numba.rowwise.embedding import look_up_row
from bitnet_jit.kernels.numba.rowwise.launch import configs
from bitnet_jit.kernels.numba.rowwise.row_team import team
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES, reset, run_team
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class PackedEmbeddingSpec:
    """The properties that the kernel is compiled for.

    Attributes:
        ids_dtype: dtype of the ids.
        layout: name of the table's layout.
        row_scales: rows have scales, one or more; else there is one of the tensor.
        dtype: dtype of the result.
    """

    ids_dtype: str
    layout: str
    row_scales: bool
    dtype: str

    @property
    def words(self) -> int:
        """Return the int32 words of an id."""
        return 2 if self.ids_dtype == "int64" else 1

    @property
    def inputs(self) -> int:
        """Return the inputs of a step of K."""
        return INPUTS_OF_LAYOUT[self.layout]

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
        return write_row


class PackedEmbeddingJob(NamedTuple):
    """The operands of one call, all int64."""

    ids: int  # (rows,) spec.ids_dtype
    packed: int  # (blocks, steps, 4, 64) uint8
    scale: int  # (), (size,) or (size, groups) float32
    y: int  # (rows, features) spec.dtype
    rows: int
    features: int
    size: int
    group_size: int  # inputs that share a scale; features where a row or the tensor has one
    counters: int


@jit
def store_fields(spec, word, scale, y, first, count):
    """Write `count` weights of a word of i2, 16 at most."""
    if count == INPUTS:
        store_word(spec.dtype, word, scale, y, first)
    else:
        for k in range(count):
            code = ((word >> (8 * (k % 4) + 2 * (k // 4))) & 3) - 1
            store_float(spec.dtype, y, first + k, np.float32(code) * scale)


@jit
def store_digits(spec, word, scale, y, first, count):
    """Write `count` weights of a word of t5, 20 at most: the first 16 by way of i2."""
    fields, beside = np.int32(0), np.int32(0)
    for byte in range(4):
        value = (word >> 8 * byte) & 255
        number, last = value & 63, value >> 6
        if value >= LATE:
            number, last = 64 + (value - LATE) % LATE_NUMBERS, (value - LATE) // LATE_NUMBERS
        digits = number // 27 | number // 9 % 3 << 2 | number // 3 % 3 << 4 | number % 3 << 6
        fields |= np.int32(digits) << 8 * byte
        beside |= np.int32(last) << 8 * byte
    store_fields(spec, fields, scale, y, first, least(INPUTS, count))
    if count > INPUTS:
        store_fields(spec, beside, scale, y, first + INPUTS, count - INPUTS)


store_weights = one_of(lambda spec: store_digits if spec.layout == T5_TILES.name else store_fields)


@jit
def write_row(spec, job, token, y):
    """Write a row of the table."""
    steps = (job.features + spec.inputs - 1) // spec.inputs
    groups = (job.features + job.group_size - 1) // job.group_size
    words = job.packed + token // BLOCK * steps * STEP_BYTES + token % BLOCK * 4
    scales = job.scale + token * groups * 4 * spec.row_scales
    for step in range(steps):
        first = step * spec.inputs
        scale = load_float32(scales, first // job.group_size)
        word = load_int32(words + step * STEP_BYTES, 0)
        store_weights(spec, word, scale, y, first, least(spec.inputs, job.features - first))


@kernel
def run(spec, fork, threads, ids, packed, scale, y, rows, features, size, group_size, workspace):
    """Run the whole op: addresses and numbers, int64."""
    job = PackedEmbeddingJob(ids, packed, scale, y, rows, features, size, group_size, workspace)
    reset(job.counters, 1)
    run_team(fork, threads, team, (spec, job))


SIGNATURE = (types.int64,) * 11
OPERANDS = ("ids", "w_packed", "w_scale", "y")


def bind(problem: Problem, config: TeamConfig) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    spec = PackedEmbeddingSpec(problem.x_dtype, problem.layout, problem.scale != "tensor", problem.y_dtype)
    entry = compiled(run, StaticType(spec), *SIGNATURE)
    group_size = problem.group_size if problem.scale == "group" else problem.in_features
    sizes = problem.in_features, problem.out_features, group_size
    return Bound(
        OPERANDS, lambda rows: entry, lambda rows: (rows, *sizes), lambda rows, threads: TEAM_BYTES, config.max_threads
    )


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, in words, or None."""
    if problem.layout not in INPUTS_OF_LAYOUT:
        return f"reads the layouts {', '.join(INPUTS_OF_LAYOUT)}, not {problem.layout!r}"
    step = INPUTS_OF_LAYOUT[problem.layout]
    if problem.scale == "group" and problem.group_size % step:
        return f"takes groups of a multiple of {step} inputs in layout {problem.layout!r}, not {problem.group_size}"
    return None


KERNELS = (Kernel("numba.packed_embedding", "packed_embedding", bind, configs, unsupported_reason),)
