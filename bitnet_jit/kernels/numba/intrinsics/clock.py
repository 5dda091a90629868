"""The CPU's clock."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I64, call
from bitnet_jit.kernels.numba.intrinsics.isa import machine


@intrinsic
def ticks(typingctx):
    """Read the CPU's clock; always 0 where a program may not read it."""

    def codegen(context, builder, signature, args):
        if machine().lower() not in ("x86_64", "amd64"):
            return ir.Constant(I64, 0)
        return call(builder, "llvm.readcyclecounter", I64)

    return types.int64(), codegen
