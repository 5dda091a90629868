"""The shape of a head kernel's register tile, its sums as a Numba type, and how sums are added up over their lanes.

A tile is `rows` rows of x by `outputs` rows of the head. Lanes run along K: a step is 64 bytes of each row of the head.
When K has passed, the lanes of a sum are added up in one fixed tree, four sums at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES
from bitnet_jit.kernels.numba.intrinsics.emit import F32, I32
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, Isa
from bitnet_jit.kernels.numba.intrinsics.registers import vectors_per_group

STEP_BYTES = 64  # of a row of the head, in one step of K
LANES = 16  # of a sum of floats, whatever the CPU: so sums run in one order
QUAD = 4  # sums whose lanes are added up together
FLOATS = ir.VectorType(F32, LANES)


@dataclass(frozen=True)
class HeadTile:
    """The shape of a register tile: a kernel's config.

    Attributes:
        isa: name of the instruction set.
        w_dtype: dtype of the head.
        rows: rows of x.
        outputs: rows of the head.
    """

    isa: str
    w_dtype: str
    rows: int
    outputs: int

    @property
    def is_int8(self) -> bool:
        return self.w_dtype == "int8"

    @property
    def w_bytes(self) -> int:
        return ELEMENT_BYTES[self.w_dtype]

    @property
    def inputs(self) -> int:
        """Return the inputs in one step of K."""
        return STEP_BYTES // self.w_bytes

    @property
    def x_step(self) -> int:
        """Return the bytes of a row of x in one step of K: float32, or the upper halves of its codes."""
        return self.inputs if self.is_int8 else 4 * self.inputs

    @property
    def width(self) -> int:
        """Return the outputs, filled up to whole quads."""
        return -(-self.outputs // QUAD) * QUAD

    @property
    def acc_bytes(self) -> int:
        """Return the bytes of the tile's sums in memory, float32."""
        return 4 * self.rows * self.width

    @property
    def tail_bytes(self) -> int:
        """Return the bytes of one step of all its rows of the head."""
        return STEP_BYTES * self.outputs

    @property
    def halves(self) -> int:
        """Return the sums of one output: one, or those of the upper and lower halves of codes."""
        return 2 if self.is_int8 else 1

    @property
    def vector(self) -> ir.VectorType:
        """Return the type of a sum: lanes of floats, or a register of int32."""
        return ISAS[self.isa].vector if self.is_int8 else FLOATS

    @property
    def sums(self) -> int:
        """Return the number of its sums."""
        return self.rows * self.outputs * self.halves

    @property
    def vector_bytes(self) -> int:
        """Return the bytes of a sum."""
        return 4 * self.vector.count

    @property
    def sums_bytes(self) -> int:
        """Return the bytes of its sums, lane by lane."""
        return self.sums * self.vector_bytes

    @property
    def registers(self) -> int:
        """Return how many registers its sums take."""
        return self.sums * (1 if self.is_int8 else vectors_per_group(ISAS[self.isa]))


class SumsType(types.Type):
    """The sums of a tile: one LLVM array of vectors, which LLVM keeps in registers."""

    def __init__(self, tile: HeadTile) -> None:
        self.llvm = ir.ArrayType(tile.vector, tile.sums)
        super().__init__(name=f"HeadSums({tile.isa}, {tile.is_int8}, {tile.sums})")


@register_model(SumsType)
class SumsModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


Add = Callable[[ir.Value, ir.Value], ir.Value]


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Emit a vector of lanes of a and b, which are counted on from those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def in_blocks(count: int, lanes: Sequence[int]) -> list[int]:
    """Return a choice of four lanes of two vectors, repeated for each four of their `count` lanes.

    >>> in_blocks(8, (0, 8, 1, 9))
    [0, 8, 1, 9, 4, 12, 5, 13]
    """
    return [block + lane for block in range(0, count, QUAD) for lane in lanes]


def add_up(builder: ir.IRBuilder, quad: Sequence[ir.Value], add: Add) -> ir.Value:
    """Emit the sums over the lanes of four vectors, as four lanes.

    Of each block of four lanes (l0 + l2) + (l1 + l3), then blocks of the lower half plus those of the upper half.
    """
    a, b, c, d = quad
    n = a.type.count

    def halves_of(a: ir.Value, b: ir.Value, low: Sequence[int], high: Sequence[int]) -> ir.Value:
        return add(shuffle(builder, a, b, in_blocks(n, low)), shuffle(builder, a, b, in_blocks(n, high)))

    pairs = [halves_of(x, y, (0, n, 1, n + 1), (2, n + 2, 3, n + 3)) for x, y in ((a, b), (c, d))]
    total = halves_of(pairs[0], pairs[1], (0, 1, n, n + 1), (2, 3, n + 2, n + 3))
    while n > QUAD:
        n //= 2
        total = add(shuffle(builder, total, total, range(n)), shuffle(builder, total, total, range(n, 2 * n)))
    return total


def isa_of(tile: HeadTile) -> Isa:
    """Return the instruction set of a tile."""
    return ISAS[tile.isa]
