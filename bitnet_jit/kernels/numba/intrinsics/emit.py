"""LLVM types, and small pieces of code that intrinsics emit: calls, loads, splats."""

from llvmlite import ir
from numba.core import cgutils

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32 = ir.FloatType()


def call(builder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Emit a call of an LLVM intrinsic."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def splat_constant(vector: ir.VectorType, value: float) -> ir.Constant:
    """Return a constant vector with one value in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def splat(builder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Emit a vector with a scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, splat_constant(ir.VectorType(I32, vector.count), 0))


def at(builder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    """Emit a pointer to `kind`, `offset` bytes behind an address."""
    moved = builder.add(address, ir.Constant(I64, offset)) if offset else address
    return builder.inttoptr(moved, kind.as_pointer())


def load(builder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    """Emit a load from any alignment, `offset` bytes behind an address."""
    return builder.load(at(builder, address, offset, kind), align=1)
