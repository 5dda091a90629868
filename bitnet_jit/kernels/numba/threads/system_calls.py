"""Calls of the system's C library from jitted code: the clock, the scheduler, futexes, threads. Linux, 64 bits.

LLVM finds the functions by their names in the running process, so that compiled code on disk holds no address. Numbers
are int64 throughout: registers that are wider than a C function reads do no harm, and its int results are narrowed.
"""

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I32, I64
from bitnet_jit.kernels.numba.intrinsics.isa import machine

FUTEX_NUMBERS = {"x86_64": 202, "amd64": 202, "aarch64": 98, "arm64": 98}  # of the system call
FUTEX_WAIT, FUTEX_WAKE = 128, 129  # of this process alone
CLOCK_MONOTONIC, RUSAGE_THREAD = 1, 1
RUSAGE_WORDS, PREEMPTIONS_AT = 18, 17  # struct rusage as int64, and its ru_nivcsw
SIG_SETMASK, SIGNAL_WORDS = 2, 16
FAULTS = (4, 5, 7, 8, 11)  # signals that a thread sends itself: SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV
BILLION = 10**9


def system_calls_unsupported_reason() -> str | None:
    """Return why these calls cannot be made here, in words, or None."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return "futexes are of 64-bit Linux"
    if machine().lower() not in FUTEX_NUMBERS:
        return f"the number of the futex call is not known for {machine()}"
    return None


def call_c(builder, name: str, *arguments: ir.Value | int, result: ir.Type = I32) -> ir.Value:
    """Emit a call of a C function whose arguments are int64; return its result as int64."""
    values = [ir.Constant(I64, value) if isinstance(value, int) else value for value in arguments]
    kind = ir.FunctionType(result, [I64] * len(values))
    number = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
    return number if result is I64 else builder.sext(number, I64)


def scratch(builder, words: int) -> tuple[ir.Value, ir.Value]:
    """Emit space for int64 words on the stack; return the pointer, and the address."""
    space = cgutils.alloca_once(builder, ir.ArrayType(I64, words))
    return space, builder.ptrtoint(space, I64)


def read_clock(builder, clock: ir.Value | int) -> tuple[ir.Value, ir.Value]:
    """Emit a reading of a clock; return the error, 0 for none, and the nanoseconds."""
    space, address = scratch(builder, 2)
    error = call_c(builder, "clock_gettime", clock, address)
    time = builder.load(space)
    seconds = builder.mul(builder.extract_value(time, 0), ir.Constant(I64, BILLION))
    return error, builder.add(seconds, builder.extract_value(time, 1))


@intrinsic
def nanoseconds(typingctx):
    """Return the time by a clock that is never set, some 20 ns per call."""
    return types.int64(), lambda context, builder, signature, args: read_clock(builder, CLOCK_MONOTONIC)[1]


@intrinsic
def running_time(typingctx, clock):
    """Return the nanoseconds that a thread has run, by the number of its clock; -1 where the thread is no more."""

    def codegen(context, builder, signature, args):
        error, time = read_clock(builder, args[0])
        is_read = builder.icmp_signed("==", error, ir.Constant(I64, 0))
        return builder.select(is_read, time, ir.Constant(I64, -1))

    return types.int64(types.int64), codegen


@intrinsic
def clock_of_this_thread(typingctx):
    """Return the number of the clock that counts how long this thread runs."""

    def codegen(context, builder, signature, args):
        space = cgutils.alloca_once_value(builder, ir.Constant(I32, 0))
        thread = call_c(builder, "pthread_self", result=I64)
        call_c(builder, "pthread_getcpuclockid", thread, builder.ptrtoint(space, I64))
        return builder.sext(builder.load(space), I64)

    return types.int64(), codegen


@intrinsic
def preemptions(typingctx):
    """Return how often this thread had to leave its core to another one that wanted it."""

    def codegen(context, builder, signature, args):
        space, address = scratch(builder, RUSAGE_WORDS)
        call_c(builder, "getrusage", RUSAGE_THREAD, address)
        return builder.extract_value(builder.load(space), PREEMPTIONS_AT)

    return types.int64(), codegen


@intrinsic
def yield_core(typingctx):
    """Let another thread that waits for this core have it."""

    def codegen(context, builder, signature, args):
        call_c(builder, "sched_yield")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def sleep(typingctx, duration):
    """Sleep for at least `duration` nanoseconds, under a second; do nothing on other systems than Linux."""

    def codegen(context, builder, signature, args):
        if system_calls_unsupported_reason() is None:
            space, address = scratch(builder, 2)
            builder.store(builder.insert_value(ir.Constant(ir.ArrayType(I64, 2), [0, 0]), args[0], 1), space)
            call_c(builder, "nanosleep", address, 0)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def futex_wait(typingctx, address, value, duration):
    """Sleep until the int64 at an address is woken, if its low 32 bits are `value`; `duration` ns at most, if not 0."""

    def codegen(context, builder, signature, args):
        address, value, duration = args
        space, limit = scratch(builder, 2)
        billion, zero = ir.Constant(I64, BILLION), ir.Constant(I64, 0)
        time = builder.insert_value(ir.Constant(ir.ArrayType(I64, 2), [0, 0]), builder.sdiv(duration, billion), 0)
        builder.store(builder.insert_value(time, builder.srem(duration, billion), 1), space)
        limit = builder.select(builder.icmp_signed("==", duration, zero), zero, limit)
        call_c(builder, "syscall", FUTEX_NUMBERS[machine().lower()], address, FUTEX_WAIT, value, limit, 0, 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def futex_wake(typingctx, address):
    """Wake one thread that sleeps at an address."""

    def codegen(context, builder, signature, args):
        call_c(builder, "syscall", FUTEX_NUMBERS[machine().lower()], args[0], FUTEX_WAKE, 1, 0, 0, 0)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def c_function(name: str, count: int, doc: str):
    """Return an intrinsic that calls a C function of `count` int64, whose result is an int."""

    @intrinsic
    def call(typingctx, arguments):
        def codegen(context, builder, signature, args):
            return call_c(builder, name, *(builder.extract_value(args[0], i) for i in range(count)))

        return types.int64(types.UniTuple(types.int64, count)), codegen

    call.__doc__ = doc
    return call


pthread_create = c_function("pthread_create", 4, "Start a thread: (where its handle goes, attributes, code, argument).")
pthread_setspecific = c_function("pthread_setspecific", 2, "Set this thread's value: (key, value).")


@intrinsic
def pthread_getspecific(typingctx, key):
    """Return this thread's value of a key, 0 where it has set none."""

    def codegen(context, builder, signature, args):
        return call_c(builder, "pthread_getspecific", args[0], result=I64)

    return types.int64(types.int64), codegen


@intrinsic
def detach_this_thread(typingctx):
    """Have this thread's memory given back when it ends, without a join."""

    def codegen(context, builder, signature, args):
        call_c(builder, "pthread_detach", call_c(builder, "pthread_self", result=I64))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def block_signals(typingctx):
    """Leave all signals but faults to the process's other threads."""
    blocked = [~sum(1 << (number - 1) for number in FAULTS), *[-1] * (SIGNAL_WORDS - 1)]

    def codegen(context, builder, signature, args):
        space = cgutils.alloca_once_value(builder, ir.Constant(ir.ArrayType(I64, SIGNAL_WORDS), blocked))
        call_c(builder, "pthread_sigmask", SIG_SETMASK, builder.ptrtoint(space, I64), 0)
        return context.get_dummy_value()

    return types.void(), codegen
