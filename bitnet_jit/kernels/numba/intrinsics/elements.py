"""Elements of any dtype, read and written as float32: in integer arithmetic where a CPU has no conversion.

bfloat16 and float16 have no Numba type: their bits travel as uint16, and a static string names their dtype.
Everything here is plain LLVM on scalars, so that the loops around it vectorize.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import F32, I8, I16, I32, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import machine, target_features

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int32": 4}
ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds to a whole number, half to even, and leaves that in the low bits
ROUND_BITS = 0x4B400000


def has_half_conversion() -> bool:
    """Return whether LLVM may convert float16 by itself; elsewhere it would call a function that nobody links."""
    return "f16c" in target_features() or machine().lower() in ("aarch64", "arm64")


def i32(value: int) -> ir.Constant:
    """Return a constant of 32 bits."""
    return ir.Constant(I32, value & 0xFFFFFFFF)


def like(value: ir.Value, kind: ir.Type) -> ir.Type:
    """Return `kind` as a scalar or a vector, as the value is."""
    return ir.VectorType(kind, value.type.count) if isinstance(value.type, ir.VectorType) else kind


def constant(kind: ir.Type, number: float) -> ir.Constant:
    """Return a constant, in every lane where `kind` is a vector."""
    return splat_constant(kind, number) if isinstance(kind, ir.VectorType) else ir.Constant(kind, number)


def widen_half(builder, half: ir.Value) -> ir.Value:
    """Emit the float of float16 bits (i32): shift into place, then mend the exponent of infinity, NaN and denormals."""
    ints, floats = half.type, like(half, F32)

    def i32(number: int) -> ir.Constant:
        return constant(ints, number)

    magnitude = builder.shl(builder.and_(half, i32(0x7FFF)), i32(13))
    exponent = builder.and_(magnitude, i32(0x0F800000))
    rebased = builder.add(magnitude, i32(112 << 23))
    infinite = builder.add(rebased, i32(112 << 23))
    small = builder.bitcast(builder.add(rebased, i32(1 << 23)), floats)
    small = builder.bitcast(builder.fsub(small, constant(floats, 2.0**-14)), ints)
    bits = builder.select(builder.icmp_unsigned("==", exponent, i32(0x0F800000)), infinite, rebased)
    bits = builder.select(builder.icmp_unsigned("==", exponent, i32(0)), small, bits)
    return builder.bitcast(builder.or_(bits, builder.shl(builder.and_(half, i32(0x8000)), i32(16))), floats)


def narrow_half(builder, value: ir.Value) -> ir.Value:
    """Emit the float16 bits (i32) of a float, half to even; a sum with 0.5 aligns and rounds a denormal's bits."""
    bits = builder.bitcast(value, I32)
    sign = builder.lshr(builder.and_(bits, i32(0x80000000)), i32(16))
    magnitude = builder.and_(bits, i32(0x7FFFFFFF))
    odd = builder.and_(builder.lshr(magnitude, i32(13)), i32(1))
    normal = builder.add(builder.add(builder.sub(magnitude, i32(112 << 23)), i32(0xFFF)), odd)
    normal = builder.lshr(normal, i32(13))
    aligned = builder.fadd(builder.bitcast(magnitude, F32), ir.Constant(F32, 0.5))
    small = builder.sub(builder.bitcast(aligned, I32), i32(0x3F000000))
    nan = builder.icmp_unsigned(">", magnitude, i32(0x7F800000))
    huge = builder.select(nan, i32(0x7E00), i32(0x7C00))
    result = builder.select(builder.icmp_unsigned("<", magnitude, i32(113 << 23)), small, normal)
    result = builder.select(builder.icmp_unsigned(">=", magnitude, i32(0x47800000)), huge, result)
    return builder.or_(result, sign)


def narrow_bfloat(builder, value: ir.Value) -> ir.Value:
    """Emit the bfloat16 bits (i32) of a float, half to even; NaN stays NaN."""
    bits = builder.bitcast(value, I32)
    odd = builder.and_(builder.lshr(bits, i32(16)), i32(1))
    rounded = builder.lshr(builder.add(builder.add(bits, i32(0x7FFF)), odd), i32(16))
    nan = builder.icmp_unsigned(">", builder.and_(bits, i32(0x7FFFFFFF)), i32(0x7F800000))
    return builder.select(nan, i32(0x7FC0), rounded)


def narrow(builder, dtype: str, value: ir.Value) -> ir.Value:
    """Emit the bits of a float in a floating dtype, i16 or i32, half to even."""
    if dtype == "float32":
        return builder.bitcast(value, I32)
    if dtype == "float16" and has_half_conversion():
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), I16)
    return builder.trunc(narrow_half(builder, value) if dtype == "float16" else narrow_bfloat(builder, value), I16)


def element(builder, address: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
    """Emit a pointer to element `index`, as a typed offset from a pointer: the loop vectorizer understands no other."""
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index], source_etype=kind)


def load_elements(builder, dtype: str, address: ir.Value, index: ir.Value, count: int = 0) -> ir.Value:
    """Emit a load of element `index` of a floating dtype as float32; or of `count` elements from there as a vector."""
    stored = {"float32": F32, "float16": ir.HalfType() if has_half_conversion() else I16, "bfloat16": I16}[dtype]
    place = element(builder, address, index, stored)
    if count:
        place = builder.bitcast(place, ir.VectorType(stored, count).as_pointer())
    value = builder.load(place, align=ELEMENT_BYTES[dtype])
    if stored is F32:
        return value
    if stored is not I16:
        return builder.fpext(value, like(value, F32))
    bits = builder.zext(value, like(value, I32))
    if dtype == "float16":
        return widen_half(builder, bits)
    return builder.bitcast(builder.shl(bits, constant(bits.type, 16)), like(value, F32))


LOG2_E = 1.44269504
LN_2 = (0.693359375, -2.12194440e-4)  # in two parts, the first of which has few bits
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


@intrinsic
def exp_float32(typingctx, x):
    """Compute exp(x) within two units in the last place, for x cut off at -87 and 88; NaN stays NaN.

    exp(x) = 2^n exp(r) with r = x - n ln 2, and the polynomial of the Cephes library for exp(r).
    """

    def codegen(context, builder, signature, args):
        def number(value: float) -> ir.Constant:
            return ir.Constant(F32, value)

        x = args[0]
        for order, bound in ((">", 88.0), ("<", -87.0)):
            x = builder.select(builder.fcmp_ordered(order, x, number(bound)), number(bound), x)
        shifted = builder.fadd(builder.fmul(x, number(LOG2_E)), number(ROUND))
        power = builder.fsub(shifted, number(ROUND))
        rest = x
        for part in LN_2:
            rest = builder.fsub(rest, builder.fmul(power, number(part)))
        value = number(EXP[0])
        for factor in EXP[1:]:
            value = builder.fadd(builder.fmul(value, rest), number(factor))
        value = builder.fadd(builder.fadd(builder.fmul(builder.fmul(value, rest), rest), rest), number(1.0))
        exponent = builder.add(builder.sub(builder.bitcast(shifted, I32), i32(ROUND_BITS)), i32(127))
        return builder.fmul(value, builder.bitcast(builder.shl(exponent, i32(23)), F32))

    return types.float32(types.float32), codegen


@intrinsic
def load_float(typingctx, dtype, address, index):
    """Load element `index` of the array of `dtype` (static) at an address, as float32."""

    def codegen(context, builder, signature, args):
        return load_elements(builder, dtype.value, args[1], args[2])

    return types.float32(dtype, types.int64, types.int64), codegen


@intrinsic
def store_float(typingctx, dtype, address, index, value):
    """Round a float32 to `dtype` (static) and write it as element `index` of the array at an address."""
    name = dtype.value

    def codegen(context, builder, signature, args):
        _, address, index, value = args
        bits = narrow(builder, name, value)
        builder.store(bits, element(builder, address, index, bits.type), align=ELEMENT_BYTES[name])
        return context.get_dummy_value()

    return types.void(dtype, types.int64, types.int64, types.float32), codegen


def plain_loader(kind: ir.Type, numba_type: types.Type, num_bytes: int, doc: str):
    """Return an intrinsic that loads elements of a dtype as they are; int8 as int32."""

    @intrinsic
    def load_plain(typingctx, address, index):
        def codegen(context, builder, signature, args):
            value = builder.load(element(builder, args[0], args[1], kind), align=num_bytes)
            return builder.sext(value, I32) if num_bytes == 1 else value

        return numba_type(types.int64, types.int64), codegen

    load_plain.__doc__ = doc
    return load_plain


def plain_storer(kind: ir.Type, numba_type: types.Type, num_bytes: int, doc: str):
    """Return an intrinsic that stores elements of a dtype as they are; int8 from int32."""

    @intrinsic
    def store_plain(typingctx, address, index, value):
        def codegen(context, builder, signature, args):
            address, index, value = args
            value = builder.trunc(value, I8) if num_bytes == 1 else value
            builder.store(value, element(builder, address, index, kind), align=num_bytes)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, numba_type), codegen

    store_plain.__doc__ = doc
    return store_plain


load_int8 = plain_loader(I8, types.int32, 1, "Load element `index` of the int8 array at an address, as int32.")
load_int32 = plain_loader(I32, types.int32, 4, "Load element `index` of the int32 array at an address.")
load_float32 = plain_loader(F32, types.float32, 4, "Load element `index` of the float32 array at an address.")
store_int8 = plain_storer(I8, types.int32, 1, "Write the low byte of an int32 as element `index` of an int8 array.")
store_int32 = plain_storer(I32, types.int32, 4, "Write element `index` of the int32 array at an address.")
store_float32 = plain_storer(F32, types.float32, 4, "Write element `index` of the float32 array at an address.")
