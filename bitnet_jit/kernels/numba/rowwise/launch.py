"""The call of a row-wise kernel, whose rows are shared out among threads."""

from bitnet_jit.kernels.numba.bound import Bound, Entry, Operands
from bitnet_jit.kernels.numba.threads.team import TeamConfig, likely_teams
from bitnet_jit.problem import Problem

SMALL_WORK = 2**16  # elements under which a second thread costs more than it brings
CHUNK_ELEMENTS = 16384  # of x in one piece of work


def bind_rows(
    operands: Operands, entry: Entry, problem: Problem, fixed_bytes: int, bytes_per_thread: int, max_threads: int
) -> Bound:
    """Return a row-wise kernel bound to a problem; its numbers are those of rows and of features."""
    return Bound(
        operands,
        lambda rows: entry,
        lambda rows: (rows, problem.in_features),
        lambda rows, threads: fixed_bytes + threads * bytes_per_thread,
        max_threads,
    )


def configs(problem: Problem) -> tuple[TeamConfig, ...]:
    """Return configs by the number of threads."""
    return likely_teams([None], problem.rows * problem.in_features < SMALL_WORK)


def unsupported_reason(problem: Problem) -> str | None:
    """Return None: every problem is served."""
    return None
