"""Vectors of 32 lanes, in as many registers as they take, for the loops over rows of activations.

One width for all CPUs, so that sums of floats run in one order. LLVM's own vectorizer finds the same loops, but spends
three times the instructions on the narrowing to bytes.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from bitnet_jit.kernels.numba.intrinsics.elements import ROUND, load_elements
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I8, I32, at, load, splat, splat_constant

LANES = 32
FLOATS, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
SUMS = {FLOATS: (types.float32, "fadd"), INTS: (types.int32, "add"), DOUBLES: (types.float64, "fadd")}
MAGNITUDE = 0x7FFFFFFF  # bits of a float32 without its sign


class LanesType(types.Type):
    """32 lanes of float32, int32 or float64."""

    def __init__(self, kind: str) -> None:
        self.llvm = {"float32": FLOATS, "int32": INTS, "float64": DOUBLES}[kind]
        super().__init__(name=f"Lanes({kind})")


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def reduce_lanes(builder, value: ir.Value, combine) -> ir.Value:
    """Combine all lanes into one number: halves, quarters, and so on."""
    count = value.type.count
    while count > 1:
        count //= 2
        low, high = (ir.Constant(ir.VectorType(I32, count), list(range(i, i + count))) for i in (0, count))
        undefined = ir.Constant(value.type, ir.Undefined)
        value = combine(builder.shuffle_vector(value, undefined, low), builder.shuffle_vector(value, undefined, high))
    return builder.extract_element(value, ir.Constant(I32, 0))


@intrinsic
def zero_floats(typingctx):
    """Return float32 lanes, all zero."""
    return LanesType("float32")(), lambda context, builder, signature, args: ir.Constant(FLOATS, None)


@intrinsic
def zero_ints(typingctx):
    """Return int32 lanes, all zero."""
    return LanesType("int32")(), lambda context, builder, signature, args: ir.Constant(INTS, None)


@intrinsic
def zero_doubles(typingctx):
    """Return float64 lanes, all zero."""
    return LanesType("float64")(), lambda context, builder, signature, args: ir.Constant(DOUBLES, None)


@intrinsic
def add_squares(typingctx, sums, values):
    """Add to sums the squares of the float32 values at an address, each product and sum rounded."""

    def codegen(context, builder, signature, args):
        value = load(builder, args[1], 0, FLOATS)
        return builder.fadd(args[0], builder.fmul(value, value))

    return sums(sums, types.int64), codegen


@intrinsic
def add_products(typingctx, sums, a, b):
    """Add to sums the products of the float32 values at two addresses, each product and sum rounded."""

    def codegen(context, builder, signature, args):
        first, second = (load(builder, address, 0, FLOATS) for address in args[1:])
        return builder.fadd(args[0], builder.fmul(first, second))

    return sums(sums, types.int64, types.int64), codegen


@intrinsic
def add_magnitudes(typingctx, sums, dtype, w, index):
    """Add to sums |w| of 32 elements of `dtype` (static) from `index` on, in float64, lane by lane."""

    def codegen(context, builder, signature, args):
        sums, _, w, index = args
        bits = builder.bitcast(load_elements(builder, dtype.value, w, index, LANES), INTS)
        value = builder.bitcast(builder.and_(bits, splat_constant(INTS, MAGNITUDE)), FLOATS)
        return builder.fadd(sums, builder.fpext(value, DOUBLES))

    return sums(sums, dtype, types.int64, types.int64), codegen


@intrinsic
def add_lanes(typingctx, sums):
    """Return the sum of all lanes."""
    result, add = SUMS[sums.llvm]

    def codegen(context, builder, signature, args):
        return reduce_lanes(builder, args[0], getattr(builder, add))

    return result(sums), codegen


def larger(builder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Emit the larger of two unsigned numbers, or lane by lane."""
    return builder.select(builder.icmp_unsigned(">", a, b), a, b)


@intrinsic
def max_magnitudes(typingctx, largest, dtype, x, index):
    """Return max(largest, bits of |x|) of 32 elements of `dtype` (static) from `index` on, lane by lane."""

    def codegen(context, builder, signature, args):
        largest, _, x, index = args
        value = load_elements(builder, dtype.value, x, index, LANES)
        bits = builder.and_(builder.bitcast(value, INTS), splat_constant(INTS, MAGNITUDE))
        return larger(builder, largest, bits)

    return largest(largest, dtype, types.int64, types.int64), codegen


@intrinsic
def max_lane(typingctx, largest):
    """Return the largest lane, unsigned."""

    def codegen(context, builder, signature, args):
        return reduce_lanes(builder, args[0], lambda a, b: larger(builder, a, b))

    return types.uint32(largest), codegen


@intrinsic
def quantize_lanes(typingctx, sums, dtype, x, index, factor, codes):
    """Store codes rint(x * factor) of 32 elements from `index` on at address codes; add the codes + ROUND_BITS to sums.

    Adding ROUND leaves a whole number in the low bits (see elements.py). No code needs a clip: |x| <= absmax, and
    absmax * fl(127 / absmax) < 127.5.
    """

    def codegen(context, builder, signature, args):
        sums, _, x, index, factor, codes = args
        value = load_elements(builder, dtype.value, x, index, LANES)
        product = builder.fmul(value, splat(builder, factor, FLOATS))
        bits = builder.bitcast(builder.fadd(product, ir.Constant(FLOATS, [ROUND] * LANES)), INTS)
        packed = builder.trunc(bits, ir.VectorType(I8, LANES))
        builder.store(packed, at(builder, codes, 0, packed.type), align=1)
        return builder.add(sums, bits)

    return sums(sums, dtype, types.int64, types.int64, types.float32, types.int64), codegen
