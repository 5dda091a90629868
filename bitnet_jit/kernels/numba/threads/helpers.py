"""The helpers of the thread pool: threads that wait for a job, join it while it is open, and leave the cores to others.

A helper that has nothing to do looks at the job's word for a while (WINDOW), so that calls that follow one another
find it awake, then parks until a caller wakes it. While it looks it offers its core to whoever waits for it; so it
does between jobs, when it holds no piece of work. When it sees that another thread took the core, it rests, since it
would be taken off the core in the middle of a piece, and the caller would wait for it. Rests become longer while that
goes on.
"""

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add, atomic_load, atomic_store, compare_and_swap
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.threads.parallel import call_with_address, pause
from bitnet_jit.kernels.numba.threads.pool_memory import (
    ASLEEP,
    AWAKE,
    DATA,
    FUNCTION,
    GENERATION,
    INDEX,
    JOB,
    KEY,
    LATE,
    LEFT,
    PARKED,
    POOL,
    REST,
    RESTED,
    RESTING,
    RUNNING,
    SEEN,
    STATE,
    STOPPED,
    YIELDED,
    admits,
    generation_of,
    get,
    helper_at,
    helpers_of,
    put,
    word,
)
from bitnet_jit.kernels.numba.threads.system_calls import (
    block_signals,
    detach_this_thread,
    futex_wait,
    futex_wake,
    nanoseconds,
    preemptions,
    pthread_setspecific,
    yield_core,
)

WINDOW = 150_000  # ns that a helper looks for its next job before it parks
LOOKS = 40  # at the job's word, a microsecond, between two looks at the clock
YIELD_EVERY = 50_000  # ns between two offers of the core, in a row of jobs
GAP = 50_000  # ns away from the core that are another thread's, and no interrupt
MIN_REST, MAX_REST = 2_000_000, 16_000_000  # ns
WAKES = 2  # helpers that a thread wakes; each wakes as many others


@jit
def wake(pool, helpers):
    """Wake some of the parked helpers 1..helpers; they wake the others."""
    woken = 0
    for index in range(1, helpers + 1):
        state = word(helper_at(pool, index), STATE)
        if atomic_load(state) == PARKED and compare_and_swap(state, PARKED, AWAKE) == PARKED:
            futex_wake(state)
            woken += 1
            if woken == WAKES:
                return


@jit
def joinable(pool, helper):
    """Return the word of a job that this helper may join, else 0."""
    job = atomic_load(word(pool, JOB))
    if admits(job, get(helper, INDEX)) and generation_of(job) != get(helper, GENERATION):
        return job
    return 0


@jit
def was_preempted(helper):
    """Return whether another thread took this one's core since this was asked last."""
    before, seen = get(helper, SEEN), preemptions()
    put(helper, SEEN, seen)
    return seen != before


@jit
def offer_core(helper):
    """Let another thread have the core if one waits for it; return whether one had it for long."""
    before = nanoseconds()
    yield_core()
    after = nanoseconds()
    put(helper, YIELDED, after)
    return after - before > GAP


@jit
def work(pool, helper, job):
    """Join a job if it is as it was seen, and leave it when no work is left; return whether that was late.

    Late is who kept its caller waiting because another thread had the core.
    """
    if compare_and_swap(word(pool, JOB), job, job + 1) != job:
        return False
    put(helper, GENERATION, generation_of(job))
    call_with_address(get(pool, FUNCTION), get(pool, DATA))
    late = atomic_load(word(pool, LATE)) == generation_of(job)
    if atomic_add(word(pool, LEFT), 1) & ASLEEP:
        futex_wake(word(pool, LEFT))
    return late and was_preempted(helper)


@jit
def look_for_job(pool, helper):
    """Return the word of a job to join; 0 after WINDOW without one, or -1 when another thread wants the core."""
    if nanoseconds() - get(helper, YIELDED) > YIELD_EVERY and offer_core(helper):
        return -1
    begin = nanoseconds()
    before = begin
    while before - begin < WINDOW and not atomic_load(word(pool, STOPPED)):
        for _ in range(LOOKS):
            job = joinable(pool, helper)
            if job != 0:
                return job
            pause()
        if offer_core(helper) or nanoseconds() - before > GAP:
            return -1
        before = get(helper, YIELDED)
    return 0


@jit
def park(pool, helper):
    """Sleep until a caller wakes this helper, then wake others."""
    state = word(helper, STATE)
    atomic_store(state, PARKED)
    if (joinable(pool, helper) != 0 or atomic_load(word(pool, STOPPED))) and compare_and_swap(
        state, PARKED, AWAKE
    ) == PARKED:
        return
    while atomic_load(state) == PARKED:
        futex_wait(state, PARKED, 0)
    wake(pool, helpers_of(atomic_load(word(pool, JOB))))


@jit
def rest(pool, helper):
    """Sleep for a while in which no caller can wake this helper: twice as long as before if that was not long ago."""
    begin, state = nanoseconds(), word(helper, STATE)
    again = begin - get(helper, RESTED) < 4 * get(helper, REST)
    duration = least(2 * get(helper, REST), MAX_REST) if again else MIN_REST
    put(helper, REST, duration)
    atomic_store(state, RESTING)
    while atomic_load(state) == RESTING and nanoseconds() - begin < duration:
        futex_wait(state, RESTING, duration)
    put(helper, RESTED, nanoseconds())


@jit
def begin(pool, helper):
    """Make this thread a helper."""
    block_signals()
    detach_this_thread()
    pthread_setspecific((get(pool, KEY), get(helper, INDEX)))
    put(helper, SEEN, preemptions())
    put(helper, YIELDED, nanoseconds())
    put(helper, REST, MIN_REST)


@jit
def help_callers(helper):
    """Run a helper thread until the pool is stopped."""
    pool = get(helper, POOL)
    begin(pool, helper)
    while not atomic_load(word(pool, STOPPED)):
        job = look_for_job(pool, helper)
        if job > 0:
            if not work(pool, helper, job):
                continue
            job = -1
        if job < 0:
            was_preempted(helper)
            rest(pool, helper)
        park(pool, helper)
        put(helper, YIELDED, nanoseconds())
    atomic_add(word(pool, RUNNING), -1)
