"""Threads: how one jitted function runs on several, and how they share the work.

`run_team` calls a function once a thread, through GOMP_parallel of the libgomp that torch itself brings, so that
torch and we have one pool: 1.3 us a region. Its address is an argument, because an address held in a global keeps
Numba from caching. A function of a team is written so that any number of threads finishes it, one included: threads
draw numbered pieces of work from a shared counter, and wait only for pieces that a running thread has drawn. So
nothing can hang where OpenMP grants fewer threads than asked for, and a slow or busy core just draws fewer pieces.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.isa import I8, I32, machine
from bitnet_jit.kernels.numba.jit import jit
from bitnet_jit.kernels.numba.simd import I64, atomic_add, atomic_load, pointer

POINTER = I8.as_pointer()
COUNTER_BYTES = 64  # a cache line each
PHASES = 2
COUNTERS = 2 * PHASES  # of a phase: pieces drawn, pieces done


@intrinsic
def run_team(typingctx, fork, threads, function, arguments):
    """Call function(*arguments) once on each of `threads` threads; `fork` is GOMP_parallel, or 0 for one thread."""
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
                kind = ir.FunctionType(ir.VoidType(), [team.type, POINTER, I32, I32])
                gomp_parallel = builder.inttoptr(fork, kind.as_pointer())
                builder.call(gomp_parallel, [team, opaque, builder.trunc(threads, I32), ir.Constant(I32, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, function, arguments), codegen


def outline(context, builder, function, signature, packed: ir.Type) -> ir.Function:
    """A C function of one pointer in this module, which calls the jitted function with the arguments it points to."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER])
    team = ir.Function(builder.module, kind, builder.module.get_unique_name("team"))
    team.linkage = "internal"
    inner = ir.IRBuilder(team.append_basic_block())
    values = inner.load(inner.bitcast(team.args[0], packed.as_pointer()))
    arguments = [inner.extract_value(values, i) for i in range(len(signature.args))]
    overload = function.dispatcher.overloads[signature.args]
    context.active_code_library.add_linking_library(overload.library)
    context.call_internal_no_propagate(inner, overload.fndesc, signature, arguments)
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


@jit
def reset(counters):
    """Set a team's counters to zero, before it starts."""
    memory = pointer(counters, types.int64)
    for i in range(COUNTERS * COUNTER_BYTES // 8):
        memory[i] = 0


@jit
def draw(counters, phase):
    """The number of the next piece of a phase."""
    return atomic_add(counters + 2 * phase * COUNTER_BYTES, 1)


@jit
def done(counters, phase):
    """Say that a piece of a phase is finished."""
    atomic_add(counters + (2 * phase + 1) * COUNTER_BYTES, 1)


@jit
def wait(counters, phase, pieces):
    """Wait until all pieces of a phase are finished; whoever holds one is running."""
    while atomic_load(counters + (2 * phase + 1) * COUNTER_BYTES) < pieces:
        pause()
