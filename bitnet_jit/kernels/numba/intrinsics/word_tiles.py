"""Sixteen canonical rows by sixteen words -> sixteen steps of the layout `i2/n64k16`, as vectors of words.

A word's codes change places as 4 x 4 fields of two bits, in two swaps, and the tile is turned in four rounds of
shuffles. Like everything in `lanes.py` this is plain LLVM of one width for all CPUs.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I32, at, splat_constant

BLOCK = 64  # outputs of a block of the layout
STEP_BYTES = 256  # of a block, in one step of K
SIDE = 16  # words of a tile's side
SWAPS = ((12, 0x0000F0F0), (6, 0x00CC00CC))  # as in `packing/i2.py`
TILE = ir.VectorType(I32, SIDE)


def turned_codes(builder, words: ir.Value) -> ir.Value:
    """Emit words whose code n of byte j is code j of byte n."""
    for distance, mask in SWAPS:
        moved = builder.lshr(words, splat_constant(TILE, distance))
        change = builder.and_(builder.xor(moved, words), splat_constant(TILE, mask))
        back = builder.shl(change, splat_constant(TILE, distance))
        words = builder.xor(builder.xor(words, change), back)
    return words


def turned_tile(builder, rows: list[ir.Value]) -> list[ir.Value]:
    """Emit a tile's columns as vectors: in each round rows at one distance exchange blocks of words so wide."""
    distance = SIDE // 2
    while distance:
        first = [SIDE + lane - distance if lane & distance else lane for lane in range(SIDE)]
        second = [SIDE + lane if lane & distance else lane + distance for lane in range(SIDE)]
        for row in range(SIDE):
            if not row & distance:
                pair = rows[row], rows[row + distance]
                rows[row] = builder.shuffle_vector(*pair, ir.Constant(TILE, first))
                rows[row + distance] = builder.shuffle_vector(*pair, ir.Constant(TILE, second))
        distance //= 2
    return rows


@intrinsic
def lay_tile(typingctx, source, row_bytes, out, step_bytes):
    """Lay 16 rows of 64 canonical bytes, `row_bytes` apart, as words of 16 steps, `step_bytes` apart."""

    def codegen(context, builder, signature, args):
        source, row_bytes, out, step_bytes = args

        def place(start: ir.Value, distance: ir.Value, number: int) -> ir.Value:
            moved = builder.add(start, builder.mul(distance, ir.Constant(distance.type, number)))
            return at(builder, moved, 0, TILE)

        rows = [builder.load(place(source, row_bytes, row), align=1) for row in range(SIDE)]
        steps = turned_tile(builder, [turned_codes(builder, words) for words in rows])
        for step, words in enumerate(steps):
            builder.store(words, place(out, step_bytes, step), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen
