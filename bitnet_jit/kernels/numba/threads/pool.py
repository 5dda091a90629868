"""A pool of threads whose callers wait for nobody who never began.

A caller opens a job, wakes helpers that are parked, and works itself. Its own part of the body returns when all pieces
of work are drawn; then it closes the job, and waits for the helpers that have joined: they hold pieces. A helper that
comes later finds the job closed, and touches nothing of it. A caller that finds the pool in use works alone.

    run_job      what `run_team` calls, as it would call GOMP_parallel
    thread_number   the number of the calling thread: 0 for callers, and a helper's own, the same in every call
"""

import atexit
import ctypes
import signal
import time
from typing import Any

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
from bitnet_jit.kernels.numba.intrinsics.emit import I32, I64
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.threads.helpers import AWAKE, help_callers, wake
from bitnet_jit.kernels.numba.threads.parallel import call_with_address, pause
from bitnet_jit.kernels.numba.threads.pool_memory import (
    ASLEEP,
    CAPACITY,
    CLOSED_MASK,
    DATA,
    FUNCTION,
    HELPER,
    INDEX,
    JOB,
    JOINED_MASK,
    KEY,
    LATE,
    LEFT,
    MAX_HELPERS,
    NUMBER,
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
    system_calls_unsupported_reason,
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
        if pthread_create((word(helper, STATE + 1), 0, get(pool, HELPER), helper)) != 0:
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
def run_job(function, data, threads, flags, pool):
    """Call a function with an address on this thread, and on helpers 1..threads-1 as far as they come in time."""
    if compare_and_swap(word(pool, OWNER), 0, 1) != 0:
        call_with_address(function, data)
        return
    if get(pool, STARTED) < threads - 1:
        start_helpers(pool, threads - 1)
    helpers = least(threads - 1, get(pool, STARTED))
    put(pool, FUNCTION, function)
    put(pool, DATA, data)
    put(pool, LEFT, 0)
    generation = generation_of(atomic_load(word(pool, JOB))) + 1
    atomic_store(word(pool, JOB), open_word(generation, helpers))
    wake(pool, helpers)
    call_with_address(function, data)
    joined = atomic_and(word(pool, JOB), CLOSED_MASK) & JOINED_MASK
    if joined != 0:
        wait_for_helpers(pool, joined, generation)
    atomic_store(word(pool, OWNER), 0)


@jit
def thread_number(fork):
    """Return the number of the calling thread."""
    return pthread_getspecific(get(fork, KEY))


@kernel
def fill(pool, key, capacity):
    """Write the words of a new pool; all others are zero."""
    put(pool, RUN, function_address(run_job))
    put(pool, NUMBER, function_address(thread_number))
    put(pool, HELPER, function_address(help_callers))
    put(pool, KEY, key)
    put(pool, CAPACITY, capacity)


@kernel
def stop(pool):
    """Ask all helpers to end. One that works ends after its job."""
    put(pool, CAPACITY, 0)
    atomic_store(word(pool, STOPPED), 1)
    for index in range(1, get(pool, STARTED) + 1):
        state = word(helper_at(pool, index), STATE)
        atomic_store(state, AWAKE)
        futex_wake(state)


class Pool:
    """The pool of a process; its threads start when a job asks for them, and end with the interpreter.

    Attributes:
        address: of its memory, which is kept to the very end of the process, as is the code that its threads run.
    """

    def __init__(self, capacity: int = MAX_USEFUL) -> None:
        capacity = min(capacity, MAX_HELPERS)
        words = pool_words(capacity)
        libc = ctypes.CDLL(None)
        key = ctypes.c_uint()
        if libc.pthread_key_create(ctypes.byref(key), None):
            raise OSError("no thread-local number is left")
        self._memory = (ctypes.c_int64 * (words + 16))()
        self.address = -(-ctypes.addressof(self._memory) // 128) * 128
        entry = compiled(fill, *(types.int64,) * 3)
        self._stop = compiled(stop, types.int64)
        for kept in (self._memory, entry):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        entry(self.address, key.value, capacity)
