"""Products of two signed bytes, by instructions that want one of them unsigned (`Isa.dot4`).

    bytes up to 255     w + 128 is multiplied; 128 times the sum of x is subtracted once at the end (`offset_unit`)
    signed bytes        w is multiplied as it is
    bytes up to 128     |w| is multiplied by x, negated where w is negative: x is never -128

So a head needs no operand beside its codes.
"""

from llvmlite import ir

from bitnet_jit.kernels.numba.intrinsics.emit import I8, call, splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import AVX2, Isa

HIGH_BITS = 0x80808080
Weights = tuple[ir.Value, ir.Value]  # as dot4 takes them, and as they are


def offset_unit(isa: Isa) -> int:
    """Return what is added to each weight, so that sums are too large by that times the sum of x."""
    return 128 if isa.whole_bytes and not isa.signed_codes else 0


def signed_weights(builder, isa: Isa, w: ir.Value) -> Weights:
    """Emit a register of int8 weights as dot4 takes them."""
    if isa.signed_codes:
        return w, w
    if offset_unit(isa):
        return builder.xor(w, splat_constant(isa.vector, HIGH_BITS)), w
    signed = builder.bitcast(w, ir.VectorType(I8, 4 * isa.lanes))
    magnitude = call(builder, f"llvm.abs.v{4 * isa.lanes}i8", signed.type, signed, ir.Constant(ir.IntType(1), 0))
    return builder.bitcast(magnitude, isa.vector), signed


def signed_dot4(builder, isa: Isa, acc: ir.Value, weights: Weights, x: ir.Value) -> ir.Value:
    """Emit acc + sum over the four bytes of each lane of weights (of `signed_weights`) times x."""
    codes, w = weights
    if isa.signed_codes or offset_unit(isa):
        return isa.dot4(builder, acc, codes, x)
    x = builder.bitcast(x, w.type)
    if isa is AVX2:
        turned = call(builder, "llvm.x86.avx2.psign.b", w.type, x, w)
    else:
        negative = builder.icmp_signed("<", w, splat_constant(w.type, 0))
        turned = builder.select(negative, builder.sub(splat_constant(w.type, 0), x), x)
    return isa.dot4(builder, acc, codes, builder.bitcast(turned, isa.vector))
