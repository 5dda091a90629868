"""Borrow torch's OpenMP threads while they are awake.

An OpenMP thread spins for some milliseconds after each of torch's own parallel operations, and a helper would fight it
for its core. So while our helpers sleep, and this process has about as many threads running as the caller asks for, a
job goes to GOMP_parallel. Its join waits for every thread, begun or not; where that took long, nothing is borrowed for
a while. From time to time the helpers are tried again: our own jobs, too, keep OpenMP's threads awake.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.emit import I32, I64
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.threads.parallel import call_for_number, call_with_address
from bitnet_jit.kernels.numba.threads.pool_memory import (
    BAN,
    BANNED_UNTIL,
    BORROWED_SINCE,
    BORROWED_UNTIL,
    BUSY,
    DATA,
    FUNCTION,
    OPENMP,
    OPENMP_NUMBER,
    OPENMP_PART,
    PART_END,
    PROCESS_TIME,
    SAMPLED,
    get,
    put,
)
from bitnet_jit.kernels.numba.threads.system_calls import nanoseconds, process_nanoseconds

MIN_SAMPLE, MAX_SAMPLE = 20_000, 50_000_000  # ns of a sample of how many threads run
TRIAL_EVERY, TRIAL = 1_000_000_000, 20_000_000  # ns: helpers are tried after so long a time, for so long
STALL = 1_000_000  # ns of waiting for other threads that are another process's
MIN_BAN, MAX_BAN = 20_000_000, 1_000_000_000  # ns without borrowing after a stall


@intrinsic
def call_openmp(typingctx, address, function, data, threads):
    """Call GOMP_parallel, which calls a function with an address on so many threads."""

    def codegen(context, builder, signature, args):
        address, function, data, threads = args
        kind = ir.FunctionType(ir.VoidType(), [I64, I64, I32, I32])
        parallel = builder.inttoptr(address, kind.as_pointer())
        builder.call(parallel, [function, data, builder.trunc(threads, I32), ir.Constant(I32, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@jit
def openmp_part(pool):
    """Run the owner's job on one of OpenMP's threads; the caller is its number 0."""
    call_with_address(get(pool, FUNCTION), get(pool, DATA))
    if call_for_number(get(pool, OPENMP_NUMBER), pool) == 0:
        put(pool, PART_END, nanoseconds())


@jit
def other_threads_run(pool, threads, now):
    """Return whether about `threads` threads of this process have run since this was asked last."""
    wall = now - get(pool, SAMPLED)
    if wall > MIN_SAMPLE:
        time = process_nanoseconds()
        ran = time - get(pool, PROCESS_TIME)
        put(pool, BUSY, wall < MAX_SAMPLE and 2 * ran > (threads + 1) * wall)
        put(pool, SAMPLED, now)
        put(pool, PROCESS_TIME, time)
    return get(pool, BUSY) != 0


@jit
def ban(pool, begin, end):
    """Borrow no more for a while; longer if the ban before ended not long ago."""
    again = begin - get(pool, BANNED_UNTIL) < 4 * get(pool, BAN)
    put(pool, BAN, least(2 * get(pool, BAN), MAX_BAN) if again else MIN_BAN)
    put(pool, BANNED_UNTIL, end + get(pool, BAN))


@jit
def borrow(pool, threads):
    """Run the owner's job on OpenMP's threads if they are awake; return whether it was run."""
    if get(pool, OPENMP) == 0:
        return False
    begin = nanoseconds()
    if not other_threads_run(pool, threads, begin) or begin < get(pool, BANNED_UNTIL):
        return False
    if begin - get(pool, BORROWED_UNTIL) > TRIAL:
        put(pool, BORROWED_SINCE, begin)
    elif begin - get(pool, BORROWED_SINCE) > TRIAL_EVERY:
        return False
    call_openmp(get(pool, OPENMP), get(pool, OPENMP_PART), pool, threads)
    end = nanoseconds()
    waited = end - get(pool, PART_END)
    if waited > STALL and 2 * waited > end - begin:
        ban(pool, begin, end)
    put(pool, BORROWED_UNTIL, end)
    return True
