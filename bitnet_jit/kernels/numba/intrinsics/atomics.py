"""Atomic operations on numbers that several threads write."""

from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I64, at


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at an address, sequentially consistent; return the value before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", at(builder, args[0], 0, I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """Read the int64 at an address that another thread may be writing; later reads stay behind it."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(at(builder, args[0], 0, I64), "acquire", 8)

    return types.int64(types.int64), codegen
