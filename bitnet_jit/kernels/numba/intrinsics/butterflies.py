"""Stages of a Hadamard transform on vectors of 16 lanes, several stages at a time while numbers stay in registers.

A stage of distance d makes a + b and a - b of each two features a and b that lie d apart. Each number takes part in one
addition per stage, so neither width nor grouping of stages changes a bit.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.elements import load_elements
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, I64, at, load

LANES = 16
GROUP = 8  # vectors that registers hold at a time
VECTOR, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
SIGN = 0x80000000


def within(builder, value: ir.Value, distance: int) -> ir.Value:
    """Emit a stage whose pairs lie in one vector: each lane's partner, plus or minus the lane."""
    order = ir.Constant(INTS, [lane ^ distance for lane in range(LANES)])
    partner = builder.shuffle_vector(value, ir.Constant(VECTOR, ir.Undefined), order)
    minus = ir.Constant(INTS, [SIGN if lane & distance else 0 for lane in range(LANES)])
    turned = builder.bitcast(builder.xor(builder.bitcast(value, INTS), minus), VECTOR)
    return builder.fadd(partner, turned)


def across(builder, values: list[ir.Value]) -> list[ir.Value]:
    """Emit the stages whose pairs lie in different vectors, of which there is a power of two."""
    distance = 1
    while distance < len(values):
        stage = list(values)
        for i in range(len(values)):
            if not i & distance:
                a, b = values[i], values[i + distance]
                stage[i], stage[i + distance] = builder.fadd(a, b), builder.fsub(a, b)
        values, distance = stage, 2 * distance
    return values


@intrinsic
def first_stages(typingctx, spec, dtype, x, first, signs, values):
    """Run the first stages of `spec.vectors` (static) vectors of x, elements of `dtype` (static) from `first` on.

    Where `spec.signs_first` (static), elements are multiplied by the float32 numbers at address `signs` before. Results
    are float32 at address `values`.
    """

    def codegen(context, builder, signature, args):
        _, _, x, first, signs, values = args
        parts = []
        for i in range(spec.value.vectors):
            index = builder.add(first, ir.Constant(I64, LANES * i))
            part = load_elements(builder, dtype.value, x, index, LANES)
            if spec.value.signs_first:
                part = builder.fmul(part, load(builder, signs, 4 * LANES * i, VECTOR))
            for distance in (1, 2, 4, 8):
                part = within(builder, part, distance)
            parts.append(part)
        for i, part in enumerate(across(builder, parts)):
            builder.store(part, at(builder, values, 4 * LANES * i, VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(spec, dtype, *(types.int64,) * 4), codegen


def later_stages(count: int, doc: str):
    """Return an intrinsic that runs log2(count) stages on `count` vectors at address `values`, `stride` bytes apart."""

    @intrinsic
    def join(typingctx, values, stride):
        def codegen(context, builder, signature, args):
            values, stride = args
            places = [builder.add(values, builder.mul(stride, ir.Constant(I64, i))) for i in range(count)]
            parts = across(builder, [load(builder, place, 0, VECTOR) for place in places])
            for place, part in zip(places, parts, strict=True):
                builder.store(part, at(builder, place, 0, VECTOR), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    join.__doc__ = doc
    return join


join_2 = later_stages(2, "Run one stage on two vectors.")
join_4 = later_stages(4, "Run two stages on four vectors.")
join_8 = later_stages(8, "Run three stages on eight vectors.")
