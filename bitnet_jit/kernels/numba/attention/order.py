"""The order in which `interleave` leaves columns of int8: put right once per row of sums, not once per load.

Four registers hold the 4 * lanes columns of a piece, blocks of 128 bits side by side.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32, at, load

WORD = 4  # columns side by side in a block


def lane_of(column: int, lanes: int) -> int:
    """Return the word, among those that `interleave` writes, of a column of its piece of 4 * lanes columns.

    >>> [lane_of(column, 16) for column in (0, 3, 4, 8, 16, 63)]
    [0, 3, 16, 32, 4, 63]
    """
    block, rest = divmod(column, 16)
    return lanes * (rest // WORD) + WORD * block + rest % WORD


@intrinsic
def order_words(typingctx, panel, address):
    """Put the float32 sums of a piece at an address in the order of columns."""
    lanes = panel.value.set.lanes
    kind, order = ir.VectorType(F32, 4 * lanes), ir.VectorType(I32, 4 * lanes)

    def codegen(context, builder, signature, args):
        value = load(builder, args[1], 0, kind)
        places = ir.Constant(order, [lane_of(column, lanes) for column in range(4 * lanes)])
        value = builder.shuffle_vector(value, ir.Constant(kind, ir.Undefined), places)
        builder.store(value, at(builder, args[1], 0, kind), align=4)
        return context.get_dummy_value()

    return types.void(panel, types.int64), codegen
