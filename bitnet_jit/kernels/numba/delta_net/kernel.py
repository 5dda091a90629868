"""`delta_net`: the convolution over tokens, then the gated delta rule, a piece per sequence and key head."""

from numba import types

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.numba.bound import ROW_STRIDE, Bound
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.delta_net.job import DeltaJob, DeltaSpec, scratch_of
from bitnet_jit.kernels.numba.delta_net.pieces import run_piece
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa
from bitnet_jit.kernels.numba.threads.parallel import (
    COUNTER_BYTES,
    MEMBERS,
    TEAM_BYTES,
    next_piece,
    ranges_of,
    reset,
    run_team,
)
from bitnet_jit.problem import Problem

OPERANDS = (
    *("mixed", ROW_STRIDE, "beta_alpha", "conv_weight", "decay", "dt_bias"),
    *("history", "states", "positions", "starts", "slots", "y"),
)
SIZES = (("conv_weight", 1), ("slots", 0))
SIGNATURE = (types.int64,) * 19
SMALL_WORK = 2**16  # numbers of states, times tokens, under which a second thread costs more than it brings


@jit
def team(spec, job):
    """Run the parallel body: draw pieces, those of one sequence side by side."""
    number = atomic_add(job.counters + MEMBERS * COUNTER_BYTES, 1)
    scratch = scratch_of(spec, job.scratch + number * spec.scratch_bytes)
    pieces, ranges = (job.sequences + 1) * spec.key_heads, ranges_of(job.threads)
    piece, offset = next_piece(job.counters, number, 0, ranges, pieces)
    while piece >= 0:
        run_piece(spec, job, piece // spec.key_heads, piece % spec.key_heads, scratch)
        piece, offset = next_piece(job.counters, number, offset, ranges, pieces)


@kernel
def run(
    spec,
    fork,
    threads,
    mixed,
    row_stride,
    beta_alpha,
    conv_weight,
    decay,
    dt_bias,
    history,
    states,
    positions,
    starts,
    slots,
    y,
    tokens,
    taps,
    sequences,
    num_bytes,
    workspace,
):
    """Run the whole op; every argument but `spec` is int64, an address or a number."""
    if tokens * spec.heads * spec.dk * spec.dv < SMALL_WORK:
        threads = 1
    job = DeltaJob(
        mixed,
        row_stride,
        beta_alpha,
        conv_weight,
        decay,
        dt_bias,
        history,
        states,
        positions,
        starts,
        slots,
        y,
        tokens,
        taps,
        sequences,
        threads,
        workspace,
        workspace + TEAM_BYTES,
    )
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


def bind(problem: Problem, config: Config) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    heads = problem.heads
    dv = problem.out_features // heads
    spec = DeltaSpec(chosen_isa().name, problem.x_dtype, heads, problem.kv_heads, problem.head_dim, dv)
    entry = compiled(run, StaticType(spec), *SIGNATURE)
    return Bound(
        OPERANDS,
        lambda rows: entry,
        lambda rows: (),
        lambda rows, threads, taps, sequences: TEAM_BYTES + threads * spec.scratch_bytes,
        sizes=SIZES,
    )


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return the one config: every call has the same order of sums."""
    return (None,)


def unsupported_reason(problem: Problem) -> str | None:
    """Return None: every problem is served."""
    return None


KERNELS = (Kernel("numba.delta_net", "delta_net", bind, configs, unsupported_reason),)
