"""Borrow torch's OpenMP threads while they are awake.

An OpenMP thread spins for some milliseconds after each of torch's own parallel operations, and a helper would fight it
for its core. So while our helpers sleep, and the first of the calling thread's OpenMP threads runs, by the clock that
counts its time, a job goes to GOMP_parallel. Its join waits for every thread, begun or not; where that took long,
nothing is borrowed for a while. From time to time the helpers are tried again: our own jobs, too, keep OpenMP's
threads awake. A caller learns of that clock by one job on OpenMP's threads, when a helper has had to rest.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.emit import I32, I64
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.threads.parallel import call_for_number, call_with_address
from bitnet_jit.kernels.numba.threads.pool_memory import (
    AWAKE_THREADS,
    BAN,
    BANNED_UNTIL,
    BORROWED_SINCE,
    BORROWED_UNTIL,
    CLOCK,
    DATA,
    FUNCTION,
    OPENMP,
    OPENMP_KEY,
    OPENMP_NUMBER,
    OPENMP_PART,
    PART_END,
    RAN,
    RESTED,
    SAMPLED,
    SEEN_AWAKE,
    get,
    helper_at,
    put,
)
from bitnet_jit.kernels.numba.threads.system_calls import (
    clock_of_this_thread,
    nanoseconds,
    pthread_getspecific,
    pthread_setspecific,
    running_time,
)

MIN_SAMPLE, MAX_SAMPLE = 20_000, 50_000_000  # ns of a sample of how many threads run
UNKNOWN = 1  # in place of a clock, for callers to whom OpenMP gives no other thread
TRIAL_EVERY, TRIAL = 1_000_000_000, 20_000_000  # ns: helpers are tried after so long a time, for so long
SPINNING = 20_000_000  # ns for which OpenMP's threads may spin, seen or not, after they were seen awake
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
    number = call_for_number(get(pool, OPENMP_NUMBER), pool)
    if number == 1:
        put(pool, CLOCK, clock_of_this_thread())
    call_with_address(get(pool, FUNCTION), get(pool, DATA))
    if number == 0:
        put(pool, PART_END, nanoseconds())


@jit
def sample(pool, clock, now):
    """Look how long the thread of a clock has run since the last look, and keep whether that was most of the time.

    Where that thread is no more, the caller learns of another one.
    """
    ran, wall = running_time(clock), now - get(pool, SAMPLED)
    if ran < 0:
        pthread_setspecific((get(pool, OPENMP_KEY), 0))
    comparable = clock == get(pool, CLOCK) and wall < MAX_SAMPLE and ran >= 0
    put(pool, AWAKE_THREADS, comparable and 2 * (ran - get(pool, RAN)) > wall)
    if get(pool, AWAKE_THREADS):
        put(pool, SEEN_AWAKE, now)
    put(pool, SAMPLED, now)
    put(pool, CLOCK, clock)
    put(pool, RAN, ran)


@jit
def openmp_is_awake(pool, now):
    """Return whether the calling thread's OpenMP threads run; or where that is not known, whether a helper rested."""
    clock = pthread_getspecific(get(pool, OPENMP_KEY))
    if clock == 0:
        return get(helper_at(pool, 1), RESTED) != 0
    if clock == UNKNOWN:
        return False
    if clock != get(pool, CLOCK) or now - get(pool, SAMPLED) > MIN_SAMPLE:
        sample(pool, clock, now)
    return get(pool, AWAKE_THREADS) != 0


@jit
def run_on_openmp(pool, threads):
    """Run the owner's job by GOMP_parallel; keep the clock of its first thread for the caller's next jobs."""
    clock = get(pool, CLOCK)
    put(pool, CLOCK, 0)
    call_openmp(get(pool, OPENMP), get(pool, OPENMP_PART), pool, threads)
    if get(pool, CLOCK) == 0:
        put(pool, CLOCK, UNKNOWN)
    if get(pool, CLOCK) != clock:
        pthread_setspecific((get(pool, OPENMP_KEY), get(pool, CLOCK)))
        put(pool, SAMPLED, 0)


@jit
def ban(pool, begin, end):
    """Borrow no more for a while; longer if the ban before ended not long ago."""
    again = begin - get(pool, BANNED_UNTIL) < 4 * get(pool, BAN)
    put(pool, BAN, least(2 * get(pool, BAN), MAX_BAN) if again else MIN_BAN)
    put(pool, BANNED_UNTIL, end + get(pool, BAN))


@jit
def borrow(pool, threads):
    """Run the owner's job on OpenMP's threads if they are awake, or alone if they were a moment ago.

    A helper that is woken beside a thread that spins, or waits for its core, would take the core from it, and torch's
    next operation would wait for that thread. Return whether the job was run.
    """
    if get(pool, OPENMP) == 0:
        return False
    begin = nanoseconds()
    awake = openmp_is_awake(pool, begin)
    if begin < get(pool, BANNED_UNTIL) or not awake:
        if begin - get(pool, SEEN_AWAKE) > SPINNING:
            return False
        call_with_address(get(pool, FUNCTION), get(pool, DATA))
        return True
    if begin - get(pool, BORROWED_UNTIL) > TRIAL:
        put(pool, BORROWED_SINCE, begin)
    elif begin - get(pool, BORROWED_SINCE) > TRIAL_EVERY:
        return False
    run_on_openmp(pool, threads)
    end = nanoseconds()
    waited = end - get(pool, PART_END)
    if waited > STALL and 2 * waited > end - begin:
        ban(pool, begin, end)
    put(pool, BORROWED_UNTIL, end)
    return True
