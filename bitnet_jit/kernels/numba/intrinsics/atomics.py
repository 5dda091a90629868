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
        return builder.load_atomic(at(builder, args[0], 0, I64), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Write the int64 at an address, sequentially consistent: what this thread reads later it reads after that."""

    def codegen(context, builder, signature, args):
        builder.atomic_rmw("xchg", at(builder, args[0], 0, I64), args[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_and(typingctx, address, value):
    """Clear bits of the int64 at an address, sequentially consistent; return the value before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("and", at(builder, args[0], 0, I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_and_swap(typingctx, address, expected, value):
    """Write the int64 at an address if it is as expected; return the value before, the expected one if written."""

    def codegen(context, builder, signature, args):
        address, expected, value = args
        pair = builder.cmpxchg(at(builder, address, 0, I64), expected, value, "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return types.int64(types.int64, types.int64, types.int64), codegen
