"""Fused multiply-adds, and an exp made of them: named, never left to the compiler, so that bits do not depend on it.

A target without the instruction rounds the product, too: there LLVM would call a function for each lane.
"""

from llvmlite import ir

from bitnet_jit.kernels.numba.intrinsics.elements import EXP, LN_2, LOG2_E, ROUND, ROUND_BITS, constant, like
from bitnet_jit.kernels.numba.intrinsics.emit import I32, call
from bitnet_jit.kernels.numba.intrinsics.isa import machine, target_features

MIN_EXP, MAX_EXP = -87.0, 88.0  # beyond these x is cut off: the result is a normal number


def has_fma() -> bool:
    """Return whether the target has the instruction."""
    return "fma" in target_features() or machine().lower() in ("aarch64", "arm64")


def multiply_add(builder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Emit a * b + c of floats or vectors of them."""
    if not has_fma():
        return builder.fadd(builder.fmul(a, b), c)
    suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
    return call(builder, f"llvm.fma.{suffix}", a.type, a, b, c)


def exp(builder, x: ir.Value) -> ir.Value:
    """Emit exp(x) within two units in the last place, for x cut off at -87 and 88; NaN stays NaN.

    exp(x) = 2^n exp(r) with r = x - n ln 2, and the polynomial of the Cephes library for exp(r).
    """
    kind = x.type

    def number(value: float) -> ir.Constant:
        return constant(kind, value)

    for order, bound in ((">", MAX_EXP), ("<", MIN_EXP)):
        x = builder.select(builder.fcmp_ordered(order, x, number(bound)), number(bound), x)
    shifted = multiply_add(builder, x, number(LOG2_E), number(ROUND))
    power = builder.fsub(shifted, number(ROUND))
    rest = x
    for part in LN_2:
        rest = multiply_add(builder, power, number(-part), rest)
    value = number(EXP[0])
    for factor in EXP[1:]:
        value = multiply_add(builder, value, rest, number(factor))
    value = multiply_add(builder, builder.fmul(value, rest), rest, rest)
    value = builder.fadd(value, number(1.0))
    ints = like(x, I32)
    exponent = builder.sub(builder.bitcast(shifted, ints), constant(ints, ROUND_BITS - 127))
    return builder.fmul(value, builder.bitcast(builder.shl(exponent, constant(ints, 23)), kind))
