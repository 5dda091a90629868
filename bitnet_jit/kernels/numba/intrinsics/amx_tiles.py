"""AMX, which multiplies 16 x 64 by 64 x 16 int8 in 16 cycles, as operations for the loops of `amx.py`.

A tile register is 16 rows of 64 bytes. An operand of weights holds 16 groups of 4 inputs by 16 outputs: just the
order of a step of our layout, once its codes are unpacked. Registers are named by number: sums 0..3, x 4 and 5, codes
6 and 7.
"""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.decode import DECODERS
from bitnet_jit.kernels.numba.intrinsics.isa import AVX512_VNNI, I8, cpu_features
from bitnet_jit.kernels.numba.intrinsics.simd import I64, at, load, prefetch_weights

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
FEATURES = frozenset({"amx-tile", "amx-int8"}) | AVX512_VNNI.features
SUMS, X, CODES = 0, 4, 6
UNITS = 16  # of a piece of work
AHEAD = 2  # tiles unpacked before their use
STEP_BYTES = 256  # of a block of the layout, in one step of K


@dataclass(frozen=True)
class AmxTile:
    """A kernel's config.

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
        """Rows of unpacked codes (4 inputs each) in one step of K."""
        return DECODERS[self.format].inputs // 4

    @property
    def batch(self) -> int:
        """Steps of K that one tile of 64 inputs takes, rounded down."""
        return 16 // self.code_rows

    @property
    def height(self) -> int:
        """Rows of x at most."""
        return 16 * self.row_tiles

    @property
    def groups(self) -> int:
        """Groups of 16 outputs."""
        return 4 // self.row_tiles

    @property
    def row_bytes(self) -> int:
        """Of unpacked codes (4 inputs of every output), and of sums."""
        return 64 * self.groups

    @property
    def chunk(self) -> int:
        """Tiles whose codes all units of a piece use in turn, beside those unpacked ahead and a step that overhangs."""
        return self.ring - AHEAD - (1 if 16 % self.code_rows else 0)

    @property
    def ring_rows(self) -> int:
        """Rows of the ring."""
        return 16 * self.ring

    @property
    def ring_bytes(self) -> int:
        """Unpacked codes, as many rows as the ring has."""
        return self.ring_rows * self.row_bytes

    @property
    def acc_bytes(self) -> int:
        """Sums of a piece of work."""
        return UNITS * self.height * self.row_bytes

    @property
    def config_bytes(self) -> int:
        """What tells the shapes of the registers."""
        return 64


@cache
def amx_unsupported_reason() -> str | None:
    """Why AMX cannot be used in this process, or None: the operating system must grant the registers first."""
    if missing := FEATURES - cpu_features():
        return f"the CPU (as Numba compiles for it) lacks {', '.join(sorted(missing))}"
    if not sys.platform.startswith("linux"):
        return "AMX is used on Linux only"
    if ctypes.CDLL(None, use_errno=True).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA):
        return "the operating system does not grant AMX registers"
    return None


def tile_call(builder, name: str, *arguments: ir.Value) -> None:
    """Call an AMX intrinsic; register numbers are constants of 8 bits."""
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def number(register: int) -> ir.Constant:
    return ir.Constant(I8, register)


@intrinsic(prefer_literal=True)
def stack_space(typingctx, spec, name):
    """The address of spec.<name> uninitialized bytes on the stack, 64-byte aligned."""
    count = getattr(spec.value, name.literal_value)

    def codegen(context, builder, signature, args):
        with builder.goto_entry_block():
            buffer = builder.alloca(ir.ArrayType(I8, count))
        buffer.align = 64
        return builder.ptrtoint(buffer, I64)

    return types.int64(spec, name), codegen


@intrinsic
def configure(typingctx, address):
    """Load the tile configuration at an address: this thread's registers get their shapes, all zero."""

    def codegen(context, builder, signature, args):
        tile_call(builder, "ldtilecfg", at(builder, args[0], 0, I8))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def release(typingctx):
    """Give this thread's tile registers back."""

    def codegen(context, builder, signature, args):
        tile_call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


def ring_places(builder, tile: AmxTile, ring: ir.Value, row: ir.Value, count: int) -> list[tuple[ir.Value, int]]:
    """(address, offset) of rows row..row+count-1 of the ring; whole tiles never wrap in their midst."""
    mask = ir.Constant(I64, tile.ring_rows - 1)

    def place(number: ir.Value) -> ir.Value:
        return builder.add(ring, builder.mul(builder.and_(number, mask), ir.Constant(I64, tile.row_bytes)))

    if 16 % tile.code_rows == 0:
        base = place(row)
        return [(base, tile.row_bytes * j) for j in range(count)]
    return [(place(builder.add(row, ir.Constant(I64, j))), 0) for j in range(count)]


def unpack_group(builder, tile: AmxTile, w: ir.Value, group: int, steps: int, places: list) -> None:
    """Codes of `steps` steps of K for 16 outputs, from address w -> their rows."""
    for s in range(steps):
        prefetch_weights(builder, w, STEP_BYTES * s + 64 * group)
        packed = load(builder, w, STEP_BYTES * s + 64 * group, AVX512_VNNI.vector)
        codes = DECODERS[tile.format].codes(builder, AVX512_VNNI, packed, in_place=False)
        for (base, offset), row in zip(places[s * tile.code_rows :], codes, strict=False):
            builder.store(row, at(builder, base, offset + 64 * group, row.type), align=64)


@intrinsic
def unpack_step(typingctx, tile, w, ring, row):
    """Codes of one step of K, at address w -> rows `row`.. (modulo its size) of the ring."""
    config = tile.value

    def codegen(context, builder, signature, args):
        _, w, ring, row = args
        places = ring_places(builder, config, ring, row, config.code_rows)
        for group in range(config.groups):
            unpack_group(builder, config, w, group, 1, places)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, types.int64), codegen


def load_x(builder, tile: AmxTile, x: ir.Value, second: ir.Value) -> None:
    """Load the tiles of x: at address x, and `second` bytes on."""
    for row in range(tile.row_tiles):
        place = at(builder, builder.add(x, second) if row else x, 0, I8)
        tile_call(builder, "tileloadd64", number(X + row), place, ir.Constant(I64, 64))


def multiply_group(builder, tile: AmxTile, codes: ir.Value, group: int) -> None:
    """sums of 16 outputs += loaded tiles of x times codes (16 rows of the ring)."""
    register = CODES + group % 2
    place = at(builder, codes, 64 * group, I8)
    tile_call(builder, "tileloadd64", number(register), place, ir.Constant(I64, tile.row_bytes))
    for row in range(tile.row_tiles):
        sums = number(SUMS + row * tile.groups + group)
        tile_call(builder, "tdpbsud", sums, number(X + row), number(register))


@intrinsic
def multiply_add(typingctx, tile, x, second, codes):
    """sums += x (a tile at address x; the second row tile `second` bytes on) times codes (16 rows of the ring)."""

    def codegen(context, builder, signature, args):
        _, x, second, codes = args
        load_x(builder, tile.value, x, second)
        for group in range(tile.value.groups):
            multiply_group(builder, tile.value, codes, group)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, types.int64), codegen


@intrinsic
def multiply_add_unpack(typingctx, tile, x, second, codes, w, ring, row):
    """`multiply_add`, and between its instructions `batch` times `unpack_step`: the two overlap only when this near."""
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


@intrinsic
def zero_sums(typingctx):
    """Set the sums to zero."""

    def codegen(context, builder, signature, args):
        for i in range(4):
            tile_call(builder, "tilezero", number(SUMS + i))
        return context.get_dummy_value()

    return types.void(), codegen


def sums_mover(name: str, doc: str):
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


load_sums = sums_mover("tileloadd64", "Sums from address acc: int32 rows of 64 outputs, row tiles tile_bytes apart.")
store_sums = sums_mover("tilestored64", "Sums to address acc: int32 rows of 64 outputs, row tiles tile_bytes apart.")
