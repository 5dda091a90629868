"""Words of sixteen weights: their codes in four bytes, and back to floats.

A word holds the codes of one output in one step of K of the layout i2/n64k16: the code w + 1 of input 4 s + j lies in
byte j, at bits 2 s and 2 s + 1. Like everything in `lanes.py` this is plain LLVM of one width for all CPUs.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES, load_elements, narrow
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I16, I32, at, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.lanes import reduce_lanes

INPUTS = 16  # of a word
ZEROS = 0x55555555  # a word of weights 0
SHIFTS = [8 * (k % 4) + 2 * (k // 4) for k in range(INPUTS)]
CODES, FLOATS = ir.VectorType(I32, INPUTS), ir.VectorType(F32, INPUTS)


@intrinsic
def word_of(typingctx, dtype, w, index, half):
    """Return the word of 16 weights of `dtype` (static) from `index` on: 1 above `half`, -1 below -half, else 0."""

    def codegen(context, builder, signature, args):
        _, w, index, half = args
        value, half = load_elements(builder, dtype.value, w, index, INPUTS), splat(builder, half, FLOATS)
        high = builder.fcmp_ordered(">", value, half)
        low = builder.fcmp_ordered("<", value, builder.fneg(half))
        one, two, none = (splat_constant(CODES, number) for number in (1, 2, 0))
        codes = builder.select(high, two, builder.select(low, none, one))
        return reduce_lanes(builder, builder.shl(codes, ir.Constant(CODES, SHIFTS)), builder.or_)

    return types.int32(dtype, types.int64, types.int64, types.float32), codegen


@intrinsic
def store_word(typingctx, dtype, word, scale, w, index):
    """Write the 16 weights of a word, times a scale, as elements of `dtype` (static) from `index` on.

    There are three values only, so each is rounded once and picked.
    """
    name = dtype.value

    def codegen(context, builder, signature, args):
        _, word, scale, w, index = args
        kind = I32 if name == "float32" else I16
        lanes = ir.VectorType(kind, INPUTS)
        plus, minus, none = (
            splat(builder, narrow(builder, name, value), lanes)
            for value in (scale, builder.fneg(scale), builder.fmul(scale, ir.Constant(F32, 0.0)))
        )
        fields = builder.and_(
            builder.lshr(splat(builder, word, CODES), ir.Constant(CODES, SHIFTS)), splat_constant(CODES, 3)
        )
        high = builder.icmp_unsigned("==", fields, splat_constant(CODES, 2))
        low = builder.icmp_unsigned("==", fields, splat_constant(CODES, 0))
        value = builder.select(high, plus, builder.select(low, minus, none))
        bytes_in = builder.mul(index, ir.Constant(index.type, ELEMENT_BYTES[name]))
        builder.store(value, at(builder, builder.add(w, bytes_in), 0, lanes), align=ELEMENT_BYTES[name])
        return context.get_dummy_value()

    return types.void(dtype, types.int32, types.float32, types.int64, types.int64), codegen
