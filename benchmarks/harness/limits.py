"""Limits of memory: how fast this CPU reads it, measured beside the contenders, and how much of it makes reads cold.

The limit is the best of a NumPy sum, a vector read of one stream, and one of many streams.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.contender import Contender
from benchmarks.harness.threads import MAX_CALLS, Threads
from bitnet_jit.kernels.numba.peaks import STREAMS, read_many_streams, read_one_stream

CALL_BYTES = 1 << 27  # read per call and thread: starting the threads must not count
MEMORY_SHARE = 0.6  # for the copies of all contenders


def read_with_numpy(buffer: NDArray[np.int64], repeats: int) -> int:
    return sum(int(buffer.sum()) for _ in range(repeats))


READERS = {
    "limit:read numpy": read_with_numpy,
    "limit:read one stream": read_one_stream,
    "limit:read many streams": read_many_streams,
}


def readers(piece_bytes: int, total_bytes: int) -> list[Contender]:
    """Return readers of a buffer of `total_bytes`: a piece of `piece_bytes` per call, a part of it per thread.

    A piece that is the whole buffer stays in the caches if it fits there, and is read again and again. The memory is
    torch's, as that of the contenders' weights: NumPy asks for huge pages, which are read a tenth faster.
    """
    return readers_of(torch.ones(total_bytes // 8, dtype=torch.int64).numpy(), piece_bytes)


def readers_of(buffer: NDArray[np.int64], piece_bytes: int, suffix: str = "") -> list[Contender]:
    """Return readers of a buffer, as `readers`; their names end with a suffix."""
    size = min(piece_bytes, buffer.nbytes) // 8
    pieces = [buffer[start : start + size] for start in range(0, buffer.size - size + 1, size)]
    repeats = max(1, CALL_BYTES // (8 * size)) if len(pieces) == 1 else 1
    contenders = []
    for name, reader in READERS.items():
        reader(buffer[:STREAMS], 1)
        contenders.append(reading(name + suffix, reader, pieces, repeats))
    return contenders


def reading(name: str, reader: Callable[..., int], pieces: list[NDArray[np.int64]], repeats: int) -> Contender:
    """Return a contender that reads one piece after another."""
    pool, size = Threads(), pieces[0].size

    def run(number: int) -> int:
        piece = pieces[number % len(pieces)]
        return pool.run(
            lambda part: reader(piece[size * part // pool.count : size * (part + 1) // pool.count], repeats)
        )

    return Contender(name, run, lambda: np.array([run(0)]), 8 * size * repeats, 0, pool.set_threads, MAX_CALLS)


def available_memory_bytes() -> int:
    """Return the memory that processes can still have: MemAvailable, or all of it where the system does not say."""
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def last_level_cache_bytes() -> int:
    """Return the size of the largest cache that the operating system names; 32 MiB where it names none."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.rstrip("K")) * 1024 for size in sizes if size.endswith("K")), default=32 << 20)


def cold_bytes(contenders: int, cache_bytes: int) -> tuple[int, bool]:
    """Return the bytes that each contender rotates over, so that every run reads its weight from memory.

    Four times the last cache, but all contenders together at most MEMORY_SHARE of the available memory.

    Returns:
        The bytes, and whether memory has cut them short.
    """
    wanted = 4 * cache_bytes
    allowed = int(MEMORY_SHARE * available_memory_bytes() / max(contenders, 1))
    return min(wanted, allowed), allowed < wanted
