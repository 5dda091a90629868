"""The softmax of one page's scores: its maximum m, p = exp(s - m), and the sum of p; then how pages are joined.

A page has 64 scores, in one vector of 64 lanes on every CPU, so that maximum and sum have one order. Each step is a
function of its own, which a loop calls for all rows: the steps of one row wait for each other, and a core looks ahead
by little more than a row of all steps.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, at, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.fused import exp, multiply_add
from bitnet_jit.kernels.numba.intrinsics.lanes import reduce_lanes
from bitnet_jit.problem import PAGE

FLOATS, INTS = ir.VectorType(F32, PAGE), ir.VectorType(I32, PAGE)
INFINITY = float("inf")


def larger(builder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Emit the larger of two floats or vectors of them."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def lanes_below(builder, count: ir.Value) -> ir.Value:
    """Emit which of a page's lanes are below an int64."""
    lanes = ir.Constant(INTS, list(range(PAGE)))
    return builder.icmp_signed("<", lanes, splat(builder, builder.trunc(count, I32), INTS))


def maximum_of(builder, scores: ir.Value, visible: ir.Value | None) -> ir.Value:
    """Emit the largest score; of the lanes that are visible, where not all are."""
    if visible is not None:
        scores = builder.select(visible, scores, splat_constant(FLOATS, -INFINITY))
    return reduce_lanes(builder, scores, lambda a, b: larger(builder, a, b))


def weights(builder, place: ir.Value, maximum: ir.Value, total: ir.Value, visible: ir.Value | None) -> None:
    """Emit the write of p in the place of scores, and of its sum; where not all lanes are visible, of those."""
    distance = builder.fsub(builder.load(place, align=4), splat(builder, load(builder, maximum, 0, F32), FLOATS))
    p = exp(builder, distance)
    if visible is not None:
        p = builder.select(visible, p, splat_constant(FLOATS, 0.0))
    builder.store(p, place, align=4)
    builder.store(reduce_lanes(builder, p, builder.fadd), at(builder, total, 0, F32))


@intrinsic
def page_maximum(typingctx, p, maximum):
    """Write the maximum of the 64 float32 scores at address p to another address."""

    def codegen(context, builder, signature, args):
        p, maximum = args
        largest = maximum_of(builder, load(builder, p, 0, FLOATS), None)
        builder.store(largest, at(builder, maximum, 0, F32))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def visible_maximum(typingctx, p, count, maximum):
    """Do as `page_maximum` with the first `count` scores, at least one."""

    def codegen(context, builder, signature, args):
        p, count, maximum = args
        largest = maximum_of(builder, load(builder, p, 0, FLOATS), lanes_below(builder, count))
        builder.store(largest, at(builder, maximum, 0, F32))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def page_weights(typingctx, p, maximum, total):
    """Turn the 64 float32 scores at address p into weights, with their maximum at an address; write their sum."""

    def codegen(context, builder, signature, args):
        p, maximum, total = args
        weights(builder, at(builder, p, 0, FLOATS), maximum, total, None)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def visible_weights(typingctx, p, count, maximum, total):
    """Do as `page_weights` with the first `count` scores; the weights of the others are 0."""

    def codegen(context, builder, signature, args):
        p, count, maximum, total = args
        weights(builder, at(builder, p, 0, FLOATS), maximum, total, lanes_below(builder, count))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def join_totals(typingctx, largest, sums, maximum, total, old, new):
    """Join a page's maximum and sum to those of the pages before it, all float32 at addresses.

    M' = max(M, m); old = exp(M - M'); new = exp(m - M'); sum = sum * old + total * new. One of the factors is 1.
    """

    def codegen(context, builder, signature, args):
        largest, sums, maximum, total = (load(builder, address, 0, F32) for address in args[:4])
        one = ir.Constant(F32, 1.0)
        rises = builder.fcmp_ordered(">", maximum, largest)
        distance = builder.select(rises, builder.fsub(largest, maximum), builder.fsub(maximum, largest))
        factor = exp(builder, distance)
        old, new = builder.select(rises, factor, one), builder.select(rises, one, factor)
        joined = multiply_add(builder, total, new, builder.fmul(sums, old))
        results = (builder.select(rises, maximum, largest), joined, old, new)
        for address, result in zip((args[0], args[1], args[4], args[5]), results, strict=True):
            builder.store(result, at(builder, address, 0, F32))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6), codegen
