"""The floating-point mode of a kernel: the default one of IEEE 754, whatever the calling thread has set.

`torch.set_flush_denormal(True)`, or a library built with -ffast-math, has one thread flush denormals to zero and leaves
the others. A kernel whose threads differ so would give other results for each number of threads. So each thread of a
team sets its control register when it begins, and restores it when it ends: some twenty cycles each.
"""

from collections.abc import Callable

from llvmlite import ir

from bitnet_jit.kernels.numba.intrinsics.emit import I8, I32, I64, call
from bitnet_jit.kernels.numba.intrinsics.isa import machine

MXCSR_DEFAULT = 0x1F80  # x86: round to nearest, denormals kept, no exception traps
FPCR_DEFAULT = 0  # AArch64: the same
X86, ARM = ("x86_64", "amd64", "i386", "i686"), ("aarch64", "arm64")


def set_default_mode(builder: ir.IRBuilder) -> Callable[[], None]:
    """Emit code that sets the default mode; return a function that emits code which restores the mode from before."""
    if machine().lower() in X86:
        return set_mxcsr(builder)
    if machine().lower() in ARM:
        return set_fpcr(builder)
    return lambda: None


def set_mxcsr(builder: ir.IRBuilder) -> Callable[[], None]:
    """Emit the same for x86, whose register is read from and written to memory."""
    before, default = (builder.alloca(I32) for _ in range(2))
    builder.store(ir.Constant(I32, MXCSR_DEFAULT), default)

    def exchange(name: str, place: ir.Value) -> None:
        call(builder, f"llvm.x86.sse.{name}", ir.VoidType(), builder.bitcast(place, I8.as_pointer()))

    exchange("stmxcsr", before)
    exchange("ldmxcsr", default)
    return lambda: exchange("ldmxcsr", before)


def set_fpcr(builder: ir.IRBuilder) -> Callable[[], None]:
    """Emit the same for 64-bit ARM."""
    before = call(builder, "llvm.aarch64.get.fpcr", I64)
    call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), ir.Constant(I64, FPCR_DEFAULT))
    return lambda: None if call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), before) else None
