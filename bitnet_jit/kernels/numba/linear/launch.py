"""The one kernel of all linear layers that Python calls: operands to a Job, a Job to a team of threads.

What a thread of the team does depends on the kernel's tile: `linear.py`, `amx.py` and `a16.py` each say it for theirs.
"""

from collections.abc import Callable
from typing import Any

from numba import types

from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel, one_of
from bitnet_jit.kernels.numba.linear.job import LinearSpec, make_job
from bitnet_jit.kernels.numba.threads.parallel import reset, run_team
from bitnet_jit.problem import Problem

Entry = Callable[..., None]
WORK: dict[type, Any] = {}  # type of tile -> jitted function (spec, job): the register that `works_on` fills
RUN_SIGNATURE = (types.int64,) * 10


def works_on(tile: type) -> Callable[[Any], Any]:
    """Decorator: this jitted function (spec, job) is what each thread does in kernels of that type of tile."""

    def register(function: Any) -> Any:
        WORK[tile] = function
        return function

    return register


work = one_of(lambda spec: WORK[type(spec.tile)])


@jit
def team(spec, job):
    """A thread of the team."""
    work(spec, job)


@kernel
def run(spec, fork, threads, x, x_scale, w, w_scale, bias, y, sizes, workspace):
    """The whole op; every argument but `spec` is int64, an address or a number."""
    job = make_job(fork, threads, x, x_scale, w, w_scale, bias, y, sizes, workspace)
    reset(job.counters, job.threads)
    run_team(fork, job.threads, team, (spec, job))


def compile_linear(problem: Problem, tile: Any) -> Entry:
    """The entry point of `run` for a problem's dtypes and a tile."""
    bias_dtype, grouped = problem.bias or "float32", problem.scale == "group"
    spec = LinearSpec(tile, problem.x_dtype, problem.y_dtype, bias_dtype, grouped)
    return compiled(run, StaticType(spec), *RUN_SIGNATURE)
