"""The sizes of a linear kernel's calls: those of its operands, and the places in its workspace."""

from typing import NamedTuple

from bitnet_jit.kernels.numba.bound import ALIGN, round_up
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES
from bitnet_jit.problem import Problem

TABLED_ROWS = 4  # of float activations, whose tables of all inputs are made once
TABLES_PER_FLOAT = 8  # bytes of tables per byte of x


class Sizes(NamedTuple):
    """The numbers that a problem's calls with one number of rows share; a kernel reads them from memory, as int64."""

    rows: int
    in_features: int
    out_features: int
    scale_stride: int
    group_size: int
    groups: int
    max_threads: int
    x_scale_at: int  # bytes from the beginning of the workspace, as the next two
    x_sum_at: int
    x_q_at: int
    x_stride: int
    workspace_bytes: int


# their indices, in that order
(
    ROWS,
    IN_FEATURES,
    OUT_FEATURES,
    SCALE_STRIDE,
    GROUP_SIZE,
    GROUPS,
    MAX_THREADS_AT,
    X_SCALE_AT,
    X_SUM_AT,
    X_Q_AT,
    X_STRIDE,
    WORKSPACE_BYTES,
) = range(len(Sizes._fields))


def inner_bytes(activation: str) -> int:
    """Return the bytes of an element of x as the inner loops read it: an int8 code, or a float32."""
    return 4 if activation == "a16" else 1


def x_stride_of(in_features: int, inner_bytes: int) -> int:
    """Return the bytes between rows of x in the workspace: whole steps of K; multiples of 1 KiB crowd the cache."""
    stride = round_up(round_up(in_features, 20), 64) * inner_bytes
    return stride + 64 if stride % 1024 == 0 else stride


def sizes_of(problem: Problem, rows: int, max_threads: int) -> Sizes:
    """Return the sizes of a problem's calls with that many rows, on at most so many threads."""
    group_size = problem.group_size if problem.scale == "group" else problem.in_features
    groups = -(-problem.in_features // group_size)
    x_stride = x_stride_of(problem.in_features, inner_bytes(problem.activation))
    x_scale = TEAM_BYTES
    x_sum = round_up(x_scale + 4 * rows * (groups if problem.activation == "a8g" else 1), ALIGN)
    x_q = round_up(x_sum + 4 * rows * groups, ALIGN)
    tables = rows * x_stride * TABLES_PER_FLOAT if problem.activation == "a16" and rows <= TABLED_ROWS else 0
    return Sizes(
        rows,
        problem.in_features,
        problem.out_features,
        {"row": 1, "group": groups}.get(problem.scale, 0),
        group_size,
        groups,
        max_threads,
        x_scale,
        x_sum,
        x_q,
        x_stride,
        x_q + round_up(rows, 32) * x_stride + tables,
    )
