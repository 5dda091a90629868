"""The softmax of one page's scores of codes, and its weights in two digits of seven bits, as codes of values need them.

s = float32(sum) * (q_scale D^-0.5) * k_scale;  m = max s;  p = exp(s - m);  l = sum p
w = p * v_scale;  unit = max w / WEIGHT_STEPS;  rint(w * (WEIGHT_STEPS / max w)) = 128 upper + lower
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.attention.codes import DIGIT
from bitnet_jit.kernels.numba.attention.order import lane_of
from bitnet_jit.kernels.numba.attention.softmax import FLOATS, INTS, lanes_below, maximum_of
from bitnet_jit.kernels.numba.intrinsics.elements import ROUND, ROUND_BITS
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I8, I32, at, load, splat, splat_constant
from bitnet_jit.kernels.numba.intrinsics.lanes import larger, reduce_lanes
from bitnet_jit.problem import PAGE, WEIGHT_STEPS


def scores_of(builder, lanes: int, sums: ir.Value, excess: ir.Value, scale: ir.Value, key_scales: ir.Value) -> ir.Value:
    """Emit the scores of a row in the order of positions, from addresses of sums, their excess, and scales."""
    piece = 4 * lanes
    order = [first + lane_of(column, lanes) for first in range(0, PAGE, piece) for column in range(piece)]
    words = load(builder, sums, 0, INTS)
    words = builder.shuffle_vector(words, ir.Constant(INTS, ir.Undefined), ir.Constant(INTS, order))
    exact = builder.sub(words, splat(builder, load(builder, excess, 0, I32), INTS))
    scaled = builder.fmul(builder.sitofp(exact, FLOATS), splat(builder, load(builder, scale, 0, F32), FLOATS))
    return builder.fmul(scaled, load(builder, key_scales, 0, FLOATS))


@intrinsic
def code_scores(typingctx, panel, sums, excess, scale, key_scales, count, maximum):
    """Turn a row's sums of codes into scores, and find their maximum.

    Args:
        panel: static.
        sums: the address of int32 (PAGE,), in the order of `lane_of`; scores take their place, in that of positions.
        excess, scale: of what the sums are too large by, and of what they are multiplied by.
        key_scales: of float32 (PAGE,).
        count: how many positions are visible, one at least: the maximum is theirs.
        maximum: of the result.
    """
    lanes = panel.value.set.lanes

    def codegen(context, builder, signature, args):
        _, sums, excess, scale, key_scales, count, maximum = args
        scores = scores_of(builder, lanes, sums, excess, scale, key_scales)
        builder.store(scores, at(builder, sums, 0, FLOATS), align=4)
        largest = maximum_of(builder, scores, lanes_below(builder, count))
        builder.store(largest, at(builder, maximum, 0, F32))
        return context.get_dummy_value()

    return types.void(panel, *(types.int64,) * 6), codegen


@intrinsic
def split_weights(typingctx, p, count, value_scales, digits, unit):
    """Write the digits of a row's weights p, (2, PAGE) int8, and the value of the lower one.

    Args:
        p: the address of float32 (PAGE,).
        count: how many positions are visible; the digits of the others are 0, whatever their scales are.
        value_scales: of float32 (PAGE,).
        digits, unit: of the results.
    """

    def codegen(context, builder, signature, args):
        p, count, value_scales, digits, unit = args
        w = builder.fmul(load(builder, p, 0, FLOATS), load(builder, value_scales, 0, FLOATS))
        w = builder.select(lanes_below(builder, count), w, splat_constant(FLOATS, 0.0))
        bits = reduce_lanes(builder, builder.bitcast(w, INTS), lambda a, b: larger(builder, a, b))
        largest, steps = builder.bitcast(bits, F32), ir.Constant(F32, float(WEIGHT_STEPS))
        factor = splat(builder, builder.fdiv(steps, largest), FLOATS)
        shifted = builder.fadd(builder.fmul(w, factor), splat_constant(FLOATS, ROUND))
        whole = builder.sub(builder.bitcast(shifted, INTS), splat_constant(INTS, ROUND_BITS))
        mask, places = splat_constant(INTS, 2**DIGIT - 1), ir.VectorType(I8, PAGE)
        upper = builder.and_(builder.lshr(whole, splat_constant(INTS, DIGIT)), mask)
        for place, digit in enumerate((upper, builder.and_(whole, mask))):
            builder.store(builder.trunc(digit, places), at(builder, digits, PAGE * place, places), align=1)
        builder.store(builder.fdiv(largest, steps), at(builder, unit, 0, F32))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), codegen
