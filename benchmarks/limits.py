"""What this CPU can do at most, measured beside the contenders: its int8 dot products and its memory reads.

    peak  a loop of the very instruction that our kernels use, on registers alone
    read  the best of a NumPy sum, a vector read of one stream, and one of many streams

Both are contenders like any other, timed in the same turns, on as many plain Python threads (the loops hold no lock).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from bitnet_jit.kernels.numba.isa import chosen_isa, splat_constant
from bitnet_jit.kernels.numba.simd import RegistersType
from work import Contender

PEAK_STEPS = 2_000_000  # several milliseconds
CALL_BYTES = 1 << 27  # read in a call and thread: starting the threads must not count
STREAMS = 8
MEMORY_SHARE = 0.85  # for the copies of all contenders
MOST_CALLS = 4  # in a turn
PAGE = 512  # int64 that are read from one stream before the next one's turn


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


@numba.njit(nogil=True)
def read_one_stream(buffer: NDArray[np.int64], repeats: int) -> int:
    total = 0
    for _ in range(repeats):
        for i in range(buffer.size):
            total += buffer[i]
    return total


@numba.njit(nogil=True)
def read_many_streams(buffer: NDArray[np.int64], repeats: int) -> int:
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


def read_with_numpy(buffer: NDArray[np.int64], repeats: int) -> int:
    return sum(int(buffer.sum()) for _ in range(repeats))


READERS = {
    "limit:read numpy": read_with_numpy,
    "limit:read one stream": read_one_stream,
    "limit:read many streams": read_many_streams,
}


class Threads:
    """Runs a function on several parts at once; `set_threads` is a contender's."""

    def __init__(self) -> None:
        self.count = 1
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def set_threads(self, threads: int) -> None:
        self.count = threads

    def run(self, function: Callable[..., int], *arguments: object) -> int:
        """The sum of `function(part, *arguments)` over the parts 0 .. count - 1."""
        jobs = [self._pool.submit(function, part, *arguments) for part in range(1, self.count)]
        return function(0, *arguments) + sum(job.result() for job in jobs)


def peak(threads: int) -> Contender:
    """Multiplications and additions of int8 that the CPU's instruction does with all operands in registers."""
    isa, pool = chosen_isa(), Threads()
    dot4_loop(1)
    return Contender(
        name="limit:peak",
        run=lambda number: pool.run(lambda part: dot4_loop(PEAK_STEPS)),
        result=lambda: np.array([dot4_loop(3)]),
        num_bytes=0,
        num_ops=threads * PEAK_STEPS * isa.registers * isa.lanes * 8,
        set_threads=pool.set_threads,
        most_calls=MOST_CALLS,
    )


def readers(piece_bytes: int, total_bytes: int) -> list[Contender]:
    """Reads of a buffer of `total_bytes`, one piece of `piece_bytes` a call; each thread reads its part of a piece.

    A piece that is the whole buffer stays in the caches if it fits there, and is read again and again.
    """
    buffer = np.ones(total_bytes // 8, np.int64)
    size = min(piece_bytes, total_bytes) // 8
    pieces = [buffer[start : start + size] for start in range(0, buffer.size - size + 1, size)]
    repeats = max(1, CALL_BYTES // (8 * size)) if len(pieces) == 1 else 1
    found = []
    for name, reader in READERS.items():
        reader(buffer[:STREAMS], 1)
        found.append(reading(name, reader, pieces, repeats))
    return found


def reading(name: str, reader: Callable[..., int], pieces: list[NDArray[np.int64]], repeats: int) -> Contender:
    """A contender that reads one piece after another."""
    pool, size = Threads(), pieces[0].size

    def run(number: int) -> int:
        piece = pieces[number % len(pieces)]
        return pool.run(
            lambda part: reader(piece[size * part // pool.count : size * (part + 1) // pool.count], repeats)
        )

    return Contender(name, run, lambda: np.array([run(0)]), 8 * size * repeats, 0, pool.set_threads, MOST_CALLS)


def available_memory_bytes() -> int:
    """Memory that processes can still have: MemAvailable, or all of it where the system does not say."""
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def last_level_cache_bytes() -> int:
    """Size of the largest cache that the operating system names; 32 MiB where it names none."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.rstrip("K")) * 1024 for size in sizes if size.endswith("K")), default=32 << 20)


def cold_bytes(contenders: int) -> tuple[int, bool]:
    """Bytes that each contender rotates over so that every run finds its weight in memory, not in a cache.

    Four times the last level cache, but all contenders together at most MEMORY_SHARE of the available memory.

    Returns:
        The bytes, and whether memory has cut them short.
    """
    wanted = 4 * last_level_cache_bytes()
    allowed = int(MEMORY_SHARE * available_memory_bytes() / max(contenders, 1))
    return min(wanted, allowed), allowed < wanted
