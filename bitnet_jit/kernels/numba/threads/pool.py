"""A pool of threads whose callers wait for nobody who never began.

A caller opens a job, wakes helpers that are parked, and works itself. Its own part of the body returns when all pieces
of work are drawn; then it closes the job, and waits for the helpers that have joined: they hold pieces. A helper that
comes later finds the job closed, and touches nothing of it. A caller that finds the pool in use works alone.

    run_job      what `run_team` calls, as it would call GOMP_parallel
    thread_number   the number of the calling thread: 0 for callers, and a helper's own, the same in every call
"""

import atexit
import ctypes
import time

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.devices.threads import MAX_USEFUL
from bitnet_jit.kernels.numba.compiler.jit import compiled, jit, kernel
from bitnet_jit.kernels.numba.intrinsics.atomics import (
    atomic_add,
    atomic_and,
    atomic_load,
    atomic_store,
    compare_and_swap,
)
from bitnet_jit.kernels.numba.intrinsics.emit import I64
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.threads.borrow import MIN_BAN, borrow, openmp_part
from bitnet_jit.kernels.numba.threads.helpers import help_callers, wake
from bitnet_jit.kernels.numba.threads.parallel import call_for_number, call_with_address, pause
from bitnet_jit.kernels.numba.threads.pool_memory import (
    ASLEEP,
    AWAKE,
    BAN,
    CAPACITY,
    CLOSED_MASK,
    DATA,
    FUNCTION,
    HANDLE,
    HELPER,
    INDEX,
    JOB,
    JOINED_MASK,
    KEY,
    LATE,
    LEFT,
    LINE,
    MAX_HELPERS,
    NUMBER,
    OPENMP,
    OPENMP_KEY,
    OPENMP_NUMBER,
    OPENMP_PART,
    OWNER,
    POOL,
    RUN,
    RUNNING,
    STARTED,
    STATE,
    STOPPED,
    generation_of,
    get,
    helper_at,
    open_word,
    pool_words,
    put,
    word,
)
from bitnet_jit.kernels.numba.threads.system_calls import (
    futex_wait,
    futex_wake,
    nanoseconds,
    pthread_create,
    pthread_getspecific,
)

PATIENCE = 30_000  # ns that a caller looks for helpers to leave before it sleeps, so that they may have its core
LOOKS = 16  # at that, between two looks at the clock


@intrinsic
def function_address(typingctx, function):
    """Return the address of a C function of int64, which calls a jitted one; for a function of one or of five."""
    dispatcher = function.dispatcher
    count = len(dispatcher.py_func.__code__.co_varnames[: dispatcher.py_func.__code__.co_argcount])
    signature = function.get_call_type(typingctx, (types.int64,) * count, {})

    def codegen(context, builder, outer, args):
        result = ir.VoidType() if signature.return_type == types.none else I64
        name = builder.module.get_unique_name(f"c_{dispatcher.py_func.__name__}")
        outline = ir.Function(builder.module, ir.FunctionType(result, [I64] * count), name)
        outline.linkage = "internal"
        inner = ir.IRBuilder(outline.append_basic_block())
        overload = dispatcher.overloads[signature.args]
        context.active_code_library.add_linking_library(overload.library)
        _, value = context.call_internal_no_propagate(inner, overload.fndesc, signature, outline.args)
        inner.ret_void() if result == ir.VoidType() else inner.ret(value)
        return builder.ptrtoint(outline, I64)

    return types.int64(function), codegen


@jit
def start_helpers(pool, count):
    """Start threads until there are `count` helpers, or no more are to be had."""
    while get(pool, STARTED) < least(count, get(pool, CAPACITY)):
        index = get(pool, STARTED) + 1
        helper = helper_at(pool, index)
        put(helper, POOL, pool)
        put(helper, INDEX, index)
        atomic_add(word(pool, RUNNING), 1)
        if pthread_create((word(helper, HANDLE), 0, get(pool, HELPER), helper)) != 0:
            atomic_add(word(pool, RUNNING), -1)
            put(pool, CAPACITY, get(pool, STARTED))
            return
        put(pool, STARTED, index)


@jit
def have_left(pool, joined):
    """Return whether all helpers that joined have left."""
    return (atomic_load(word(pool, LEFT)) & JOINED_MASK) == joined


@jit
def wait_for_helpers(pool, joined, generation):
    """Wait until the helpers that joined have left: first awake, then asleep, so that one of them may have the core."""
    begin = nanoseconds()
    while nanoseconds() - begin < PATIENCE:
        for _ in range(LOOKS):
            if have_left(pool, joined):
                return
            pause()
    atomic_store(word(pool, LATE), generation)
    while not have_left(pool, joined):
        left = atomic_load(word(pool, LEFT))
        if left & ASLEEP:
            futex_wait(word(pool, LEFT), left, 0)
        else:
            compare_and_swap(word(pool, LEFT), left, left | ASLEEP)


@jit
def a_helper_is_awake(pool, count):
    """Return whether one of the helpers 1..count runs, so that the next job finds it."""
    index = 1
    while index <= count and atomic_load(word(helper_at(pool, index), STATE)) != AWAKE:
        index += 1
    return index <= count


@jit
def run_with_helpers(pool, threads):
    """Run the owner's job on this thread, and on helpers 1..threads-1 as far as they come in time."""
    if get(pool, STARTED) < threads - 1:
        start_helpers(pool, threads - 1)
    helpers = least(threads - 1, get(pool, STARTED))
    put(pool, LEFT, 0)
    generation = generation_of(atomic_load(word(pool, JOB))) + 1
    atomic_store(word(pool, JOB), open_word(generation, helpers))
    wake(pool, helpers)
    call_with_address(get(pool, FUNCTION), get(pool, DATA))
    joined = atomic_and(word(pool, JOB), CLOSED_MASK) & JOINED_MASK
    if joined != 0:
        wait_for_helpers(pool, joined, generation)


@jit
def run_job(function, data, threads, flags, pool):
    """Call a function with an address on this thread and others: helpers, or OpenMP's; on this alone, if all work."""
    if compare_and_swap(word(pool, OWNER), 0, 1) != 0:
        call_with_address(function, data)
        return
    put(pool, FUNCTION, function)
    put(pool, DATA, data)
    if a_helper_is_awake(pool, least(threads - 1, get(pool, STARTED))) or not borrow(pool, threads):
        run_with_helpers(pool, threads)
    atomic_store(word(pool, OWNER), 0)


@jit
def thread_number(pool):
    """Return the number of the calling thread: a helper's, else OpenMP's, which is 0 for all but its own threads."""
    number = pthread_getspecific(get(pool, KEY))
    if number == 0 and get(pool, OPENMP) != 0:
        return call_for_number(get(pool, OPENMP_NUMBER), pool)
    return number


@kernel
def fill(pool, key, capacity, openmp, openmp_number, openmp_key):
    """Write the words of a new pool; all others are zero."""
    put(pool, RUN, function_address(run_job))
    put(pool, NUMBER, function_address(thread_number))
    put(pool, HELPER, function_address(help_callers))
    put(pool, OPENMP_PART, function_address(openmp_part))
    put(pool, KEY, key)
    put(pool, CAPACITY, capacity)
    put(pool, OPENMP, openmp)
    put(pool, OPENMP_NUMBER, openmp_number)
    put(pool, OPENMP_KEY, openmp_key)
    put(pool, BAN, MIN_BAN)


@kernel
def stop_helpers(pool):
    """Ask all helpers to end; one that works ends after its job. Jobs run on their callers alone from now on."""
    put(pool, CAPACITY, 0)
    atomic_store(word(pool, STOPPED), 1)
    for index in range(1, get(pool, STARTED) + 1):
        state = word(helper_at(pool, index), STATE)
        atomic_store(state, AWAKE)
        futex_wake(state)


def thread_local_key() -> int:
    """Return the key of a number that each thread has for itself, 0 at first."""
    key = ctypes.c_uint()
    if error := ctypes.CDLL(None).pthread_key_create(ctypes.byref(key), None):
        raise OSError(error, "cannot keep a number for each thread")
    return key.value


class Pool:
    """A pool; its threads start when a job asks for them, and end with the interpreter.

    Args:
        openmp: the addresses of GOMP_parallel and omp_get_thread_num, whose threads may be borrowed; 0 for none.
        capacity: how many helpers there may be.

    Attributes:
        address: of its memory (`Fork.address`), which is kept to the end of the process, as is the code that its
            threads run.
    """

    def __init__(self, openmp: tuple[int, int] = (0, 0), capacity: int = MAX_USEFUL) -> None:
        capacity = min(capacity, MAX_HELPERS)
        memory = (ctypes.c_int64 * (pool_words(capacity) + LINE))()
        self.address = -(-ctypes.addressof(memory) // (8 * LINE)) * (8 * LINE)
        entry, self._stop = compiled(fill, *(types.int64,) * 6), compiled(stop_helpers, types.int64)
        for kept in (memory, entry, self._stop):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        entry(self.address, thread_local_key(), capacity, *openmp, thread_local_key())
        self._running = ctypes.c_int64.from_address(self.address + 8 * RUNNING)
        atexit.register(self.stop)

    def forget(self) -> None:
        """Have nothing wait for the helpers: this process is a forked child, and has none."""
        atexit.unregister(self.stop)
        self._running.value = 0

    def stop(self, timeout: float = 1.0) -> None:
        """End the helpers, and wait that many seconds at most until they have."""
        atexit.unregister(self.stop)
        self._stop(self.address)
        end = time.monotonic() + timeout
        while self._running.value and time.monotonic() < end:
            time.sleep(1e-4)
