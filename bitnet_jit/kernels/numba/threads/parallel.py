"""Parallel bodies: one jitted function runs on several threads, which share the work.

`run_team` calls a function on the calling thread and on others that come in time (`fork.py` says from where). The
address of their source is an argument, as an address held in a global keeps Numba from caching. A parallel body is
written so that any number of threads finishes it, one included: threads draw numbered pieces of work from shared
counters, and wait only for pieces that a thread has drawn. So nothing can hang where fewer threads come than were asked
for, and a slow or busy core just draws fewer pieces.

Each thread begins with a range of its own, the same in every call, so that its operands may still lie in its core's
cache; when that is done it takes from the others' ranges.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.compiler.float_mode import set_default_mode
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add, atomic_load
from bitnet_jit.kernels.numba.intrinsics.emit import I8, I32, I64, load
from bitnet_jit.kernels.numba.intrinsics.isa import machine
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.threads.system_calls import sleep

POINTER = I8.as_pointer()
COUNTER_BYTES = 64  # of a counter: a cache line
MAX_RANGES = 128  # of pieces: more threads than that share them
DRAWN, DONE = 0, 1  # counters of the pieces of the first phase
MEMBERS = 2  # counter of the threads that have come
LOOKS, NAP = 1000, 20_000  # looks of a thread that waits for others, before it sleeps for so many nanoseconds at a time
RANGES = 3  # the first counter of a range; the others follow
TEAM_BYTES = (RANGES + MAX_RANGES) * COUNTER_BYTES  # of all counters, with which a workspace begins


@intrinsic
def run_team(typingctx, fork, threads, function, arguments):
    """Call function(*arguments) once on each of up to `threads` threads; `fork` is `Fork.address`, 0 for one thread."""
    signature = function.get_call_type(typingctx, arguments.types, {})

    def codegen(context, builder, outer, args):
        fork, threads, _, packed = args
        data = cgutils.alloca_once_value(builder, packed)
        team = outline(context, builder, function, signature, packed.type)
        alone = builder.or_(
            builder.icmp_signed("<", threads, ir.Constant(I64, 2)),
            builder.icmp_signed("==", fork, ir.Constant(I64, 0)),
        )
        opaque = builder.bitcast(data, POINTER)
        with builder.if_else(alone) as (here, together):
            with here:
                builder.call(team, [opaque])
            with together:
                kind = ir.FunctionType(ir.VoidType(), [team.type, POINTER, I64, I64, I64])
                run = builder.inttoptr(load(builder, fork, 0, I64), kind.as_pointer())
                builder.call(run, [team, opaque, threads, ir.Constant(I64, 0), fork])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, function, arguments), codegen


def outline(context, builder, function, signature, packed: ir.Type) -> ir.Function:
    """Emit a C function of one pointer, which calls the jitted function with the arguments that the pointer points to.

    It does so in the default floating-point mode.
    """
    kind = ir.FunctionType(ir.VoidType(), [POINTER])
    team = ir.Function(builder.module, kind, builder.module.get_unique_name("team"))
    team.linkage = "internal"
    inner = ir.IRBuilder(team.append_basic_block())
    values = inner.load(inner.bitcast(team.args[0], packed.as_pointer()))
    arguments = [inner.extract_value(values, i) for i in range(len(signature.args))]
    overload = function.dispatcher.overloads[signature.args]
    context.active_code_library.add_linking_library(overload.library)
    restore_mode = set_default_mode(inner)
    context.call_internal_no_propagate(inner, overload.fndesc, signature, arguments)
    restore_mode()
    inner.ret_void()
    return team


@intrinsic
def pause(typingctx):
    """Tell the core that this thread only waits."""

    def codegen(context, builder, signature, args):
        if machine().lower() in ("x86_64", "amd64"):
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            )
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_for_number(typingctx, function, fork):
    """Call the C function at an address with a fork's, and return its int."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(I32, [I64])
        number = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return builder.sext(number, I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def call_with_address(typingctx, function, data):
    """Call the C function at an address with another address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@jit
def reset(counters, threads):
    """Set a team's counters to zero, before it starts."""
    memory = pointer(counters, types.int64)
    for i in range(RANGES + ranges_of(threads)):
        memory[i * COUNTER_BYTES // 8] = 0


@jit
def ranges_of(threads):
    """Return into how many ranges the pieces are cut."""
    return least(threads, MAX_RANGES)


@jit
def member(fork, counters):
    """Return the number of the calling thread: its source's, the same in every call, else the order of coming.

    It may be larger than the number of threads that were asked for.
    """
    if fork == 0:
        return 0
    number = pointer(fork, types.int64)[1]
    if number == 0:
        return atomic_add(counters + MEMBERS * COUNTER_BYTES, 1)
    return call_for_number(number, fork)


@jit
def next_piece(counters, home, offset, ranges, pieces):
    """Draw a piece, first from range `home`, then from the others; return it, or -1, and its range's offset."""
    while offset < ranges:
        chosen = (home + offset) % ranges
        piece = pieces * chosen // ranges + atomic_add(counters + (RANGES + chosen) * COUNTER_BYTES, 1)
        if piece < pieces * (chosen + 1) // ranges:
            return piece, offset
        offset += 1
    return -1, offset


@jit
def draw(counters):
    """Return the number of the next piece of the first phase."""
    return atomic_add(counters + DRAWN * COUNTER_BYTES, 1)


@jit
def done(counters):
    """Say that a piece of the first phase is finished."""
    atomic_add(counters + DONE * COUNTER_BYTES, 1)


@jit
def wait(counters, pieces):
    """Wait until all pieces of the first phase are finished: soon asleep, as who holds one may need this core."""
    looks = 0
    while atomic_load(counters + DONE * COUNTER_BYTES) < pieces:
        looks += 1
        if looks < LOOKS:
            pause()
        else:
            sleep(NAP)
