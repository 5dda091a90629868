"""The limits of a CPU: loops that only read memory, or only add up int8 products on registers."""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from bitnet_jit.kernels.numba.intrinsics.amx_tiles import (
    CODES,
    SUMS,
    X,
    configure,
    number,
    release,
    tile_call,
    zero_sums,
)
from bitnet_jit.kernels.numba.intrinsics.emit import splat_constant
from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa
from bitnet_jit.kernels.numba.intrinsics.registers import RegistersType

TILES, TILE_ROWS, ROW_BYTES = 4, 16, 64  # of sums; of a tile
AMX_OPERATIONS = TILES * 2 * TILE_ROWS * TILE_ROWS * ROW_BYTES  # per step of `amx_loop`
STREAMS = 8
PAGE = 512  # int64 that are read from one stream before the next one's turn


def registers_type() -> RegistersType:
    """Return the type of a full tile's accumulators and two operands."""
    isa = chosen_isa()
    return RegistersType(isa.name, isa.registers + 2)


def opaque(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Hide a value from the optimizer, which then knows nothing of it; costs no instruction."""
    letter = "w" if "neon" in chosen_isa().name else "v" if chosen_isa().lanes == 16 else "x"
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", f"={letter},0", [value], side_effect=True)


@intrinsic
def first_registers(typingctx):
    """Return accumulators that are zero, and operands whose products do not vanish."""
    kind, isa = registers_type(), chosen_isa()
    values = [0] * isa.registers + [0x01020001, 0x7F80FF01]

    def codegen(context, builder, signature, args):
        return ir.Constant(kind.llvm, [splat_constant(isa.vector, value) for value in values])

    return kind(), codegen


@intrinsic
def dot4_each(typingctx, registers):
    """Add one dot4 to every accumulator."""
    isa = chosen_isa()

    def codegen(context, builder, signature, args):
        (registers,) = args
        *accumulators, codes, x = (builder.extract_value(registers, i) for i in range(registers.type.count))
        codes, x = opaque(builder, codes), opaque(builder, x)
        results = [isa.dot4(builder, accumulator, codes, x) for accumulator in accumulators]
        for i, result in enumerate([*results, codes, x]):
            registers = builder.insert_value(registers, result, i)
        return registers

    return registers(registers), codegen


@intrinsic
def any_lane(typingctx, registers):
    """Return a number that depends on every accumulator."""

    def codegen(context, builder, signature, args):
        total = builder.extract_value(args[0], 0)
        for i in range(1, args[0].type.count - 2):
            total = builder.xor(total, builder.extract_value(args[0], i))
        return builder.sext(builder.extract_element(total, ir.Constant(ir.IntType(32), 0)), ir.IntType(64))

    return types.int64(registers), codegen


def dot4_operations() -> int:
    """Return the operations per step of `dot4_loop`; a multiply-add counts as two."""
    return chosen_isa().registers * chosen_isa().lanes * 8


@numba.njit(nogil=True)
def dot4_loop(steps: int) -> int:
    """Run nothing but dot4, on every register."""
    registers = first_registers()
    for _ in range(steps):
        registers = dot4_each(registers)
    return any_lane(registers)


@intrinsic
def multiply_tiles(typingctx):
    """Add one product to every tile of sums."""

    def codegen(context, builder, signature, args):
        for tile in range(TILES):
            tile_call(builder, "tdpbsud", number(SUMS + tile), number(X), number(CODES))
        return context.get_dummy_value()

    return types.void(), codegen


@numba.njit(nogil=True)
def amx_loop(config_address: int, steps: int) -> int:
    """Run nothing but products of tiles, of the shapes at an address."""
    configure(config_address)
    zero_sums()
    for _ in range(steps):
        multiply_tiles()
    release()
    return steps


def tile_shapes() -> NDArray[np.uint8]:
    """Return the configuration that `amx_loop` loads: all tiles are whole."""
    config = np.zeros(ROW_BYTES, np.uint8)
    config[0] = 1  # the palette; then the bytes and the rows of eight tiles
    config[16:32] = np.full(8, ROW_BYTES, np.uint16).view(np.uint8)
    config[48:56] = TILE_ROWS
    return config


@numba.njit(nogil=True)
def read_one_stream(buffer: NDArray[np.int64], repeats: int) -> int:
    """Sum a buffer, from its beginning to its end."""
    total = 0
    for _ in range(repeats):
        for i in range(buffer.size):
            total += buffer[i]
    return total


@numba.njit(nogil=True)
def read_many_streams(buffer: NDArray[np.int64], repeats: int) -> int:
    """Sum a buffer, read at several places in turn."""
    total = 0
    length = buffer.size // STREAMS
    for _ in range(repeats):
        for page in range(0, length, PAGE):
            for stream in range(STREAMS):
                start = stream * length + page
                for i in range(start, min(start + PAGE, (stream + 1) * length)):
                    total += buffer[i]
        for i in range(STREAMS * length, buffer.size):
            total += buffer[i]
    return total
