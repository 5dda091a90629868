"""Memory by its address: typed pointers, and space on the stack."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I8, I64


@intrinsic
def pointer(typingctx, address, dtype):
    """Turn an address into a typed pointer: p[i] reads and writes."""
    kind = dtype.dtype if isinstance(dtype, types.DType) else dtype.instance_type
    result = types.CPointer(kind)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, dtype), codegen


@intrinsic(prefer_literal=True)
def stack_space(typingctx, spec, name):
    """Return the address of spec.<name> uninitialized bytes on the stack, 64-byte aligned, until the function ends."""
    count = getattr(spec.value, name.literal_value)

    def codegen(context, builder, signature, args):
        with builder.goto_entry_block():
            buffer = builder.alloca(ir.ArrayType(I8, count))
        buffer.align = 64
        return builder.ptrtoint(buffer, I64)

    return types.int64(spec, name), codegen
