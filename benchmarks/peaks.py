"""How many int8 products this CPU adds up at most, measured beside the contenders: its instructions on registers alone.

limit:peak dot4   the dot product of the instruction set that our kernels use
limit:peak amx    where the CPU has AMX: its product of tiles
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.amx_tiles import (
    CODES,
    SUMS,
    X,
    configure,
    number,
    release,
    tile_call,
    why_no_amx,
    zero_sums,
)
from bitnet_jit.kernels.numba.isa import chosen_isa, splat_constant
from bitnet_jit.kernels.numba.simd import RegistersType
from threads import MOST_CALLS, Threads
from work import Contender

DOT4_STEPS = 2_000_000  # several milliseconds
AMX_STEPS = 200_000
TILES, TILE_ROWS, ROW_BYTES = 4, 16, 64  # of sums; of a tile
TILE_OPS = 2 * TILE_ROWS * TILE_ROWS * ROW_BYTES


def registers_type() -> RegistersType:
    """The accumulators of a full tile, and two operands."""
    isa = chosen_isa()
    return RegistersType(isa.name, isa.registers + 2)


def opaque(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same value, of which the optimizer no longer knows anything; costs no instruction."""
    letter = "w" if "neon" in chosen_isa().name else "v" if chosen_isa().lanes == 16 else "x"
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", f"={letter},0", [value], side_effect=True)


@intrinsic
def first_registers(typingctx):
    """All zero, and operands whose products do not vanish."""
    kind, isa = registers_type(), chosen_isa()
    values = [0] * isa.registers + [0x01020001, 0x7F80FF01]

    def codegen(context, builder, signature, args):
        return ir.Constant(kind.llvm, [splat_constant(isa.vector, value) for value in values])

    return kind(), codegen


@intrinsic
def dot4_each(typingctx, registers):
    """One dot4 onto every accumulator."""
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
    """A number that depends on every accumulator."""

    def codegen(context, builder, signature, args):
        total = builder.extract_value(args[0], 0)
        for i in range(1, args[0].type.count - 2):
            total = builder.xor(total, builder.extract_value(args[0], i))
        return builder.sext(builder.extract_element(total, ir.Constant(ir.IntType(32), 0)), ir.IntType(64))

    return types.int64(registers), codegen


@numba.njit(nogil=True)
def dot4_loop(steps: int) -> int:
    registers = first_registers()
    for _ in range(steps):
        registers = dot4_each(registers)
    return any_lane(registers)


@intrinsic
def multiply_tiles(typingctx):
    """One product onto every tile of sums."""

    def codegen(context, builder, signature, args):
        for tile in range(TILES):
            tile_call(builder, "tdpbsud", number(SUMS + tile), number(X), number(CODES))
        return context.get_dummy_value()

    return types.void(), codegen


@numba.njit(nogil=True)
def amx_loop(config_address: int, steps: int) -> int:
    configure(config_address)
    zero_sums()
    for _ in range(steps):
        multiply_tiles()
    release()
    return steps


def dot4_peak(threads: int) -> Contender:
    isa, pool = chosen_isa(), Threads()
    dot4_loop(1)
    return Contender(
        name="limit:peak dot4",
        run=lambda _: pool.run(lambda part: dot4_loop(DOT4_STEPS)),
        result=lambda: np.array([dot4_loop(3)]),
        num_bytes=0,
        num_ops=threads * DOT4_STEPS * isa.registers * isa.lanes * 8,
        set_threads=pool.set_threads,
        most_calls=MOST_CALLS,
    )


def amx_peak(threads: int) -> Contender:
    config, pool = np.zeros(ROW_BYTES, np.uint8), Threads()
    config[0] = 1  # the palette; then the bytes and the rows of eight tiles
    config[16:32] = np.full(8, ROW_BYTES, np.uint16).view(np.uint8)
    config[48:56] = TILE_ROWS
    amx_loop(config.ctypes.data, 1)
    return Contender(
        name="limit:peak amx",
        run=lambda _: pool.run(lambda part: amx_loop(config.ctypes.data, AMX_STEPS)),
        result=lambda: np.array([amx_loop(config.ctypes.data, 3)]),
        num_bytes=0,
        num_ops=threads * AMX_STEPS * TILES * TILE_OPS,
        set_threads=pool.set_threads,
        most_calls=MOST_CALLS,
    )


def peaks(threads: int) -> list[Contender]:
    """The peaks of this CPU on that many threads."""
    return [dot4_peak(threads)] if why_no_amx() else [dot4_peak(threads), amx_peak(threads)]
