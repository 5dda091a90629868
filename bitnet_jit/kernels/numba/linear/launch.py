"""The one kernel of all linear layers that Python calls: operands to a Job, a Job to a team of threads.

The parallel body depends on the kernel's tile: `tiled.py`, `amx.py` and `a16.py` each have one for theirs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import types

from bitnet_jit.kernels.numba.bound import Bound, Entry, Operands, int64_address, without
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel, one_of
from bitnet_jit.kernels.numba.linear.job import LinearSpec, make_job
from bitnet_jit.kernels.numba.linear.sizes import sizes_of
from bitnet_jit.kernels.numba.threads.parallel import reset, run_team
from bitnet_jit.problem import Problem

WORK: dict[type, Any] = {}  # type of tile -> jitted function (spec, job); `works_on` fills it
RUN_SIGNATURE = (types.int64,) * 10
OPERANDS: dict[str, Operands] = {  # of each op, in the order of `run`
    "bit_linear": ("x", None, "w_packed", "w_scale", "bias", "y"),
    "quantized_linear": ("x_q", "x_scale", "w_packed", "w_scale", "bias", "y"),
    "ternary_matmul": ("x_q", None, "w_packed", None, None, "y"),
}


def works_on(tile: type) -> Callable[[Any], Any]:
    """Make a jitted function (spec, job) the parallel body of kernels with that type of tile; a decorator."""

    def keep(function: Any) -> Any:
        WORK[tile] = function
        return function

    return keep


work = one_of(lambda spec: WORK[type(spec.tile)])


@jit
def team(spec, job):
    """Run a thread of the team."""
    work(spec, job)


@kernel
def run(spec, fork, threads, x, x_scale, w, w_scale, bias, y, sizes, workspace):
    """Run the whole op; every argument but `spec` is int64, an address or a number."""
    job = make_job(fork, threads, x, x_scale, w, w_scale, bias, y, sizes, workspace)
    reset(job.counters, job.threads)
    run_team(fork, job.threads, team, (spec, job))


def compile_linear(problem: Problem, tile: Any) -> Entry:
    """Return the entry point of `run` for a problem's dtypes and a tile."""
    bias_dtype, grouped = problem.bias or "float32", problem.scale == "group"
    x_grouped = problem.activation == "a8g"
    spec = LinearSpec(tile, problem.x_dtype, problem.y_dtype, bias_dtype, grouped, x_grouped)
    return compiled(run, StaticType(spec), *RUN_SIGNATURE)


def bind_linear(problem: Problem, tile_for: Callable[[int], Any], max_threads: int) -> Bound:
    """Return a linear kernel bound to a problem.

    Args:
        problem: the problem; its dtypes, layout and sizes are fixed from here on.
        tile_for: number of rows -> the tile; each is compiled on first use.
        max_threads: how many threads share the work at most; the kernel reads it from its sizes.
    """

    @cache
    def compile_for(tile: Any) -> Entry:
        return compile_linear(problem, tile)

    operands = OPERANDS[problem.op]
    return Bound(
        operands if problem.bias else without(operands, "bias"),
        lambda rows: compile_for(tile_for(rows)),
        lambda rows: (int64_address(sizes_of(problem, rows, max_threads)),),
        lambda rows, threads: sizes_of(problem, rows, max_threads).workspace_bytes,
    )
