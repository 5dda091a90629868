"""`paged_attention`: new keys and values are written into their pages first, then blocks of queries attend.

    scores = q k * D^-0.5;  of each page m = max, p = exp(scores - m), l = sum p, acc = p v
    pages are joined in order: M' = max(M, m); l and acc times exp(M - M'), the page's times exp(m - M');  y = acc / l

Lanes are keys while scores are summed up over d, and d while values are summed up over keys. What a row gets depends on
itself and its pages alone, so whole prompts, chunks and single tokens give the same bits on any number of threads.
"""

from numba import types

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.numba.attention.attend import attend, prepare
from bitnet_jit.kernels.numba.attention.job import AttentionJob, AttentionSpec, scratch_of
from bitnet_jit.kernels.numba.attention.pages import write_block
from bitnet_jit.kernels.numba.attention.plan import (
    PIECE_BYTES,
    SMALL_WORK,
    block_tokens,
    make_blocks,
    make_pieces,
    piece_at,
    scratch_at,
    work_of,
    workspace_bytes,
)
from bitnet_jit.kernels.numba.bound import Bound, without
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa
from bitnet_jit.kernels.numba.threads.parallel import (
    COUNTER_BYTES,
    MEMBERS,
    TEAM_BYTES,
    done,
    draw,
    next_piece,
    reset,
    run_team,
    wait,
)
from bitnet_jit.problem import Problem

OPERANDS = ("qkv", "keys", "values", "rotary", "positions", "starts", "tables", "key_scale", "value_scale", "y")
SIZES = (("tables", 0), ("tables", 1))
SIGNATURE = (types.int64,) * 17


@jit
def team(spec, job):
    """Run the parallel body: write all blocks, then draw pieces."""
    number = atomic_add(job.counters + MEMBERS * COUNTER_BYTES, 1)
    scratch = scratch_of(spec, job.scratch + number * spec.scratch_bytes)
    pieces = job.num_pieces
    drawn = draw(job.counters)
    while drawn < pieces:
        block = piece_at(job.pieces, drawn)
        if block.first == 0:
            write_block(spec, job, block, scratch)
        done(job.counters)
        drawn = draw(job.counters)
    wait(job.counters, pieces)
    drawn, _ = next_piece(job.counters, 0, 0, 1, pieces)
    token = head = types.int64(-1)
    while drawn >= 0:
        block = piece_at(job.pieces, drawn)
        if block.token != token or block.head != head:  # else the part before has left its queries
            prepare(spec, job, block, scratch)
            token, head = block.token, block.head
        attend(spec, job, block, scratch)
        drawn, _ = next_piece(job.counters, 0, 0, 1, pieces)


@kernel
def run(
    spec,
    fork,
    threads,
    qkv,
    keys,
    values,
    rotary,
    positions,
    starts,
    tables,
    key_scale,
    value_scale,
    y,
    tokens,
    sequences,
    width,
    num_bytes,
    workspace,
):
    """Run the whole op; every argument but `spec` is int64, an address or a number."""
    blocks, scratch = workspace + TEAM_BYTES, workspace + scratch_at(spec, tokens, threads)
    pieces, results = blocks + PIECE_BYTES * tokens, scratch + threads * spec.scratch_bytes
    block = block_tokens(spec, tokens, threads)
    number = make_blocks(spec, positions, starts, sequences, tokens, y, block, blocks)
    if work_of(spec, blocks, number) < SMALL_WORK:
        threads = 1
    count = make_pieces(spec, blocks, number, threads, results, workspace + num_bytes, pieces)
    job = AttentionJob(
        qkv,
        keys,
        values,
        rotary,
        positions,
        tables,
        key_scale,
        value_scale,
        y,
        width,
        threads,
        workspace,
        pieces,
        count,
        scratch,
    )
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


def spec_of(problem: Problem) -> AttentionSpec:
    """Return what the kernel is compiled for."""
    return AttentionSpec(
        chosen_isa().name,
        problem.x_dtype,
        problem.cache_dtype,
        problem.heads,
        problem.kv_heads,
        problem.head_dim,
    )


def bind(problem: Problem, config: Config) -> Bound:
    """Return the kernel bound to a problem, compiled."""
    spec = spec_of(problem)
    entry = compiled(run, StaticType(spec), *SIGNATURE)
    operands = OPERANDS if spec.is_int8 else without(without(OPERANDS, "key_scale"), "value_scale")
    return Bound(
        operands,
        lambda rows: entry,
        lambda rows: (),
        lambda rows, threads, sequences, width: workspace_bytes(spec, rows, threads, width),
        sizes=SIZES,
    )


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return the one config: the kernel decides by the work of each call."""
    return (None,)


def unsupported_reason(problem: Problem) -> str | None:
    """Return None: every problem is served."""
    return None


KERNELS = (Kernel("numba.paged_attention", "paged_attention", bind, configs, unsupported_reason),)
