"""Codes as a file holds them -> canonical `i2` and the numbers of codes 1 and 3, in one pass that all threads share.

A piece of work is small enough that its codes are counted while they lie in the first cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from bitnet_jit.kernels.numba.bound import Entry
from bitnet_jit.kernels.numba.compiler.jit import StaticType, compiled, jit, kernel, one_of
from bitnet_jit.kernels.numba.intrinsics.atomics import atomic_add
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer, stack_space
from bitnet_jit.kernels.numba.intrinsics.scalars import least
from bitnet_jit.kernels.numba.intrinsics.stored_codes import (
    BYTES,
    FROM_T5,
    GROUP,
    count_bits,
    decode_block,
    decode_column,
    decode_group,
    decode_t5,
)
from bitnet_jit.kernels.numba.threads.parallel import draw, reset, run_team
from bitnet_jit.packing.stored import Blocks, Columns, Stored

PIECE_BYTES = 2**14  # of canonical codes, about, in one piece of work
ZEROS = 0x55  # a byte of weights 0
T5_ZEROS = 121
LOW = 0x5555555555555555  # the lower bit of each code
SIGNATURE = (types.int64,) * 12
Counts = tuple[int, int]
Launch = Callable[..., None]


@dataclass(frozen=True)
class DecodeSpec:
    """The properties that a kernel is compiled for: how codes are stored, and buffers for the ends of rows."""

    stored: Stored
    source_bytes: int = BYTES
    out_bytes: int = FROM_T5

    @property
    def shifts(self) -> int:
        """Return the shifts of `Columns`, in a byte each."""
        assert isinstance(self.stored, Columns)
        return sum(shift << 8 * n for n, shift in enumerate(self.stored.shifts))

    @property
    def adjoining(self) -> int:
        """Return whether the rows of `Columns` adjoin."""
        assert isinstance(self.stored, Columns)
        return int(self.stored.adjoining)


class DecodeJob(NamedTuple):
    """The operands of one call, all int64."""

    source: int
    out: int  # (rows, columns) uint8
    counts: int  # (2,) int64: codes 1 and 3
    rows: int
    columns: int
    in_features: int
    items: int  # blocks, byte rows or rows
    at_once: int  # of them, in one piece of work
    source_columns: int  # bytes of an item of the source
    counters: int


@jit
def count(address, num_bytes):
    """Return the numbers of codes 1 and of codes 3 among canonical bytes."""
    words, ones, threes = pointer(address, types.int64), 0, 0
    for i in range(num_bytes // 8):
        low, high = words[i] & LOW, (words[i] >> 1) & LOW
        ones += count_bits(low & ~high)
        threes += count_bits(low & high)
    rest = pointer(address, types.uint8)
    for i in range(num_bytes // 8 * 8, num_bytes):
        low, high = np.int64(rest[i]) & ZEROS, (np.int64(rest[i]) >> 1) & ZEROS
        ones += count_bits(low & ~high)
        threes += count_bits(low & high)
    return ones, threes


@jit
def copy_bytes(source, out, num_bytes):
    """Copy bytes from one address to another."""
    given, taken = pointer(source, types.uint8), pointer(out, types.uint8)
    for i in range(num_bytes):
        taken[i] = given[i]


@jit
def fill_bytes(address, value, num_bytes):
    """Fill bytes with a value."""
    memory = pointer(address, types.uint8)
    for i in range(num_bytes):
        memory[i] = value


@jit
def end_row(job, row):
    """Set the codes behind K in the last byte of a row to 1; return the numbers of codes 1 and of codes 3 in it."""
    rest = job.in_features % 4
    if rest:
        last = pointer(row + job.columns - 1, types.uint8)
        mask = (1 << 2 * rest) - 1
        last[0] = (np.int64(last[0]) & mask) | (ZEROS & ~mask)
    return count(row, job.columns)


@jit
def decode_blocks(spec, job, first, last):
    """Decode some blocks; return the numbers of codes 1 and of codes 3."""
    per_block = spec.stored.elements // 4
    grouped = first + (last - first) // GROUP * GROUP
    for block in range(first, grouped, GROUP):
        decode_group(spec.stored, job.source + block * spec.stored.num_bytes, job.out + block * per_block)
    for block in range(grouped, last):
        decode_block(spec.stored, job.source + block * spec.stored.num_bytes, job.out + block * per_block)
    return count(job.out + first * per_block, (last - first) * per_block)


@jit
def row_of_columns(spec, job, source, out, shift):
    """Decode one of the four rows of which bytes hold columns."""
    whole = job.in_features // BYTES
    for step in range(whole):
        decode_column(shift, source + step * BYTES, out + step * (BYTES // 4))
    rest = job.in_features - whole * BYTES
    if rest:
        given, taken = stack_space(spec, "source_bytes"), stack_space(spec, "out_bytes")
        fill_bytes(given, 0, BYTES)
        copy_bytes(source + whole * BYTES, given, rest)
        decode_column(shift, given, taken)
        copy_bytes(taken, out + whole * (BYTES // 4), (rest + 3) // 4)


@jit
def decode_columns(spec, job, first, last):
    """Decode some byte rows, each of four rows; return the numbers of codes 1 and of codes 3."""
    ones, threes = 0, 0
    for j in range(first, last):
        for n in range(4):
            row = 4 * j + n if spec.adjoining else j + n * job.items
            if row < job.rows:
                out = job.out + row * job.columns
                row_of_columns(spec, job, job.source + j * job.source_columns, out, (spec.shifts >> 8 * n) & 7)
                counts = end_row(job, out)
                ones, threes = ones + counts[0], threes + counts[1]
    return ones, threes


@jit
def row_of_t5(spec, job, source, out):
    """Decode a row of five codes per byte."""
    whole = least(job.source_columns // BYTES, job.columns // FROM_T5)
    for step in range(whole):
        decode_t5(source + step * BYTES, out + step * FROM_T5)
    rest = job.columns - whole * FROM_T5
    if rest:
        given, taken = stack_space(spec, "source_bytes"), stack_space(spec, "out_bytes")
        fill_bytes(given, T5_ZEROS, BYTES)
        copy_bytes(source + whole * BYTES, given, job.source_columns - whole * BYTES)
        decode_t5(given, taken)
        copy_bytes(taken, out + whole * FROM_T5, rest)


@jit
def row_of_i2(spec, job, source, out):
    """Copy a row, which is canonical but for the codes behind K."""
    copy_bytes(source, out, job.columns)


decode_row = one_of(lambda spec: {"i2": row_of_i2, "t5": row_of_t5}[spec.stored])


@jit
def decode_rows(spec, job, first, last):
    """Decode some rows of a packing of ours; return the numbers of codes 1 and of codes 3."""
    ones, threes = 0, 0
    for row in range(first, last):
        out = job.out + row * job.columns
        decode_row(spec, job, job.source + row * job.source_columns, out)
        counts = end_row(job, out)
        ones, threes = ones + counts[0], threes + counts[1]
    return ones, threes


DECODERS = {Blocks: decode_blocks, Columns: decode_columns, str: decode_rows}
decode_items = one_of(lambda spec: DECODERS[type(spec.stored)])


@jit
def team(spec, job):
    """Run the parallel body: draw pieces to decode."""
    ones, threes, first = 0, 0, draw(job.counters) * job.at_once
    while first < job.items:
        counts = decode_items(spec, job, first, least(first + job.at_once, job.items))
        ones, threes = ones + counts[0], threes + counts[1]
        first = draw(job.counters) * job.at_once
    atomic_add(job.counts, ones)
    atomic_add(job.counts + 8, threes)


@kernel
def run(spec, fork, threads, source, out, counts, rows, columns, in_features, items, at_once, item_bytes, workspace):
    """Run the whole pass: addresses and numbers, int64."""
    job = DecodeJob(source, out, counts, rows, columns, in_features, items, at_once, item_bytes, workspace)
    reset(job.counters, threads)
    run_team(fork, threads, team, (spec, job))


@cache
def entry_of(stored: Stored) -> Entry:
    """Return the entry point for codes that are stored so, compiled."""
    return compiled(run, StaticType(DecodeSpec(stored)), *SIGNATURE)


def decode(stored: Stored, source: Any, out: Any, in_features: int, launch: Launch) -> Counts:
    """Fill `out` with the canonical codes of `source`; return the numbers of codes 1 and of codes 3 among its bytes.

    Args:
        stored: how `source` holds codes.
        source: a contiguous tensor of torch on the CPU, uint8 of the shape of `out` in that form.
        out: likewise, canonical i2, uint8 (N, ceil(in_features / 4)).
        in_features: K.
        launch: runs an entry point on threads (`tensors.py`).
    """
    rows, columns = out.shape
    items, num_bytes, item_bytes = rows, source.numel() // max(rows, 1), columns
    if isinstance(stored, Blocks):
        items, item_bytes = source.numel() // stored.num_bytes, stored.elements // 4
    elif isinstance(stored, Columns):
        items, num_bytes, item_bytes = -(-rows // 4), in_features, 4 * columns
    counts = np.zeros(2, np.int64)
    addresses = source.data_ptr(), out.data_ptr(), counts.ctypes.data
    sizes = rows, columns, in_features, items, max(1, PIECE_BYTES // item_bytes), num_bytes
    launch(entry_of(stored), *addresses, *sizes)
    return int(counts[0]), int(counts[1])
