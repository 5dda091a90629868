"""One tile on AMX: up to 32 rows of x by 32 outputs or 16 by 64, as operations for the loops of `amx.py`.

An operand of weights holds 16 groups of 4 inputs by 16 outputs. A step of our layout has just that order, once its
codes are unpacked.
"""

from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.amx_tiles import CODES, SUMS, X, number, tile_call
from bitnet_jit.kernels.numba.intrinsics.decode import DECODERS
from bitnet_jit.kernels.numba.intrinsics.emit import I8, I64, at, load
from bitnet_jit.kernels.numba.intrinsics.isa import AVX512_VNNI
from bitnet_jit.kernels.numba.intrinsics.prefetch import prefetch_weights
from bitnet_jit.kernels.numba.layout import STEP_BYTES

AHEAD = 2  # tiles unpacked before their use


@dataclass(frozen=True)
class AmxTile:
    """The shape of a tile on AMX: a kernel's config.

    Attributes:
        format: name of the packing.
        row_tiles: 1: up to 16 rows by 64 outputs; 2: up to 32 rows by 32 outputs.
        ring: tiles of 64 inputs for which unpacked codes have room; a power of two, 4 or more.
    """

    format: str
    row_tiles: int
    ring: int

    @property
    def code_rows(self) -> int:
        """Return the rows of unpacked codes (4 inputs each) in one step of K."""
        return DECODERS[self.format].inputs // 4

    @property
    def batch(self) -> int:
        """Return the steps of K that one tile of 64 inputs takes, rounded down."""
        return 16 // self.code_rows

    @property
    def height(self) -> int:
        """Return the rows of x at most."""
        return 16 * self.row_tiles

    @property
    def groups(self) -> int:
        """Return the groups of 16 outputs."""
        return 4 // self.row_tiles

    @property
    def width(self) -> int:
        """Return the outputs in the tile."""
        return 16 * self.groups

    @property
    def row_bytes(self) -> int:
        """Return the bytes per row of unpacked codes (4 inputs of every output), and of sums."""
        return 64 * self.groups

    @property
    def chunk(self) -> int:
        """Return the tiles whose codes all units of a piece use in turn; others are unpacked ahead, or overhang."""
        return self.ring - AHEAD - (1 if 16 % self.code_rows else 0)

    @property
    def ring_rows(self) -> int:
        """Return the rows of the ring."""
        return 16 * self.ring

    @property
    def ring_bytes(self) -> int:
        """Return the bytes of unpacked codes, as many rows as the ring has."""
        return self.ring_rows * self.row_bytes

    @property
    def units(self) -> int:
        """Return the units of a piece of work at most."""
        return 16

    @property
    def acc_bytes(self) -> int:
        """Return the bytes of the sums of a piece of work."""
        return self.units * self.height * self.row_bytes

    @property
    def config_bytes(self) -> int:
        """Return the bytes that tell the shapes of the registers."""
        return 64


def ring_places(builder, tile: AmxTile, ring: ir.Value, row: ir.Value, count: int) -> list[tuple[ir.Value, int]]:
    """Emit (address, offset) of rows row..row+count-1 of the ring; whole tiles never wrap in their midst."""
    mask = ir.Constant(I64, tile.ring_rows - 1)

    def place(number: ir.Value) -> ir.Value:
        return builder.add(ring, builder.mul(builder.and_(number, mask), ir.Constant(I64, tile.row_bytes)))

    if 16 % tile.code_rows == 0:
        base = place(row)
        return [(base, tile.row_bytes * j) for j in range(count)]
    return [(place(builder.add(row, ir.Constant(I64, j))), 0) for j in range(count)]


def unpack_group(builder, tile: AmxTile, w: ir.Value, group: int, steps: int, places: list) -> None:
    """Emit the codes of `steps` steps of K for 16 outputs, from address w, into their rows."""
    for s in range(steps):
        prefetch_weights(builder, w, STEP_BYTES * s + 64 * group)
        packed = load(builder, w, STEP_BYTES * s + 64 * group, AVX512_VNNI.vector)
        codes = DECODERS[tile.format].codes(builder, AVX512_VNNI, packed, in_place=False)
        for (base, offset), row in zip(places[s * tile.code_rows :], codes, strict=False):
            builder.store(row, at(builder, base, offset + 64 * group, row.type), align=64)


@intrinsic
def unpack_step(typingctx, tile, w, ring, row):
    """Unpack the codes of one step of K, at address w, into rows `row`.. (modulo its size) of the ring."""
    config = tile.value

    def codegen(context, builder, signature, args):
        _, w, ring, row = args
        places = ring_places(builder, config, ring, row, config.code_rows)
        for group in range(config.groups):
            unpack_group(builder, config, w, group, 1, places)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, types.int64), codegen


def load_x(builder, tile: AmxTile, x: ir.Value, second: ir.Value) -> None:
    """Emit loads of the tiles of x: at address x, and `second` bytes on."""
    for row in range(tile.row_tiles):
        place = at(builder, builder.add(x, second) if row else x, 0, I8)
        tile_call(builder, "tileloadd64", number(X + row), place, ir.Constant(I64, 64))


def multiply_group(builder, tile: AmxTile, codes: ir.Value, group: int) -> None:
    """Emit sums of 16 outputs += loaded tiles of x times codes (16 rows of the ring)."""
    register = CODES + group % 2
    place = at(builder, codes, 64 * group, I8)
    tile_call(builder, "tileloadd64", number(register), place, ir.Constant(I64, tile.row_bytes))
    for row in range(tile.row_tiles):
        sums = number(SUMS + row * tile.groups + group)
        tile_call(builder, "tdpbsud", sums, number(X + row), number(register))


@intrinsic
def multiply_add(typingctx, tile, x, second, codes):
    """Add to sums x (a tile at address x; the second row tile `second` bytes on) times codes (16 rows of the ring)."""

    def codegen(context, builder, signature, args):
        _, x, second, codes = args
        load_x(builder, tile.value, x, second)
        for group in range(tile.value.groups):
            multiply_group(builder, tile.value, codes, group)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, types.int64), codegen


@intrinsic
def multiply_add_unpack(typingctx, tile, x, second, codes, w, ring, row):
    """Do `multiply_add`, and between its instructions `batch` times `unpack_step`: only so near do the two overlap."""
    config = tile.value

    def codegen(context, builder, signature, args):
        _, x, second, codes, w, ring, row = args
        places = ring_places(builder, config, ring, row, config.batch * config.code_rows)
        load_x(builder, config, x, second)
        for group in range(config.groups):
            multiply_group(builder, config, codes, group)
            unpack_group(builder, config, w, group, config.batch, places)
        return context.get_dummy_value()

    return types.void(tile, *(types.int64,) * 6), codegen


def sums_mover(name: str, doc: str):
    """Return an intrinsic that moves sums between their registers and memory by an AMX intrinsic of that name."""

    @intrinsic
    def move_sums(typingctx, tile, acc, tile_bytes):
        def codegen(context, builder, signature, args):
            _, acc, tile_bytes = args
            columns = tile.value.groups
            for i in range(4):
                row_tile = builder.mul(tile_bytes, ir.Constant(I64, i // columns))
                place = at(builder, builder.add(acc, row_tile), 64 * (i % columns), I8)
                tile_call(builder, name, number(SUMS + i), place, ir.Constant(I64, tile.value.row_bytes))
            return context.get_dummy_value()

        return types.void(tile, types.int64, types.int64), codegen

    move_sums.__doc__ = doc
    return move_sums


load_sums = sums_mover("tileloadd64", "Load sums from address acc: int32 rows, row tiles tile_bytes apart.")


store_sums = sums_mover("tilestored64", "Store sums to address acc: int32 rows, row tiles tile_bytes apart.")
