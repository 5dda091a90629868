"""`Region`: memory that a pool got in one piece, and the buffers that lie in it."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bitnet_jit.devices.huge_pages import available, first_page, map_memory, tensor_at
from bitnet_jit.engine.memory.spans import FreeSpans

MIN_MAPPED = 2**21  # bytes of a region that is worth huge pages
PAGE = mmap.PAGESIZE
MIN_HOLE = 2**16  # bytes of a span that is worth a call of the system


@dataclass(frozen=True)
class Block:
    """Memory that a source gave.

    Attributes:
        memory: (num_bytes,) uint8 on the CPU, uninitialized.
        discard: (offset, bytes), multiples of PAGE -> gives these pages back to the system. None: it cannot be done.
    """

    memory: torch.Tensor
    discard: Callable[[int, int], None] | None = None


class Source(Protocol):
    """Where regions come from."""

    def size(self, num_bytes: int) -> int:
        """Return the bytes of the smallest region that holds so many."""

    def allocate(self, num_bytes: int) -> Block:
        """Return memory, which goes back with its last view. Raises MemoryError or RuntimeError."""


class HostSource:
    """Memory of the CPU, in huge pages where the system has them."""

    def size(self, num_bytes: int) -> int:
        """Return the size as it is."""
        return num_bytes

    def allocate(self, num_bytes: int) -> Block:
        """Return memory whose pages can be given back one by one, if it is large."""
        mapped = map_memory(num_bytes) if num_bytes >= MIN_MAPPED and available() else None
        if mapped is None:
            return Block(torch.empty(num_bytes, dtype=torch.uint8))
        start = first_page(mapped)

        def discard(offset: int, size: int) -> None:
            mapped.madvise(mmap.MADV_DONTNEED, start + offset, size)

        return Block(tensor_at(mapped, start, (num_bytes,), torch.uint8), discard)


class PinnedSource:
    """Page-locked memory of the CPU, which a GPU reads and writes beside its work."""

    def size(self, num_bytes: int) -> int:
        """Return the next power of two, which is what torch's allocator of such memory makes of any size."""
        return 1 << (num_bytes - 1).bit_length()

    def allocate(self, num_bytes: int) -> Block:
        """Return memory that goes back to torch's allocator."""
        return Block(torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True))


HOST, PINNED = HostSource(), PinnedSource()


@dataclass(eq=False)
class Region:
    """A piece of memory.

    Attributes:
        source: where it came from.
        block: its memory; it lives as long as any buffer in it.
        bytes: the same as an array (num_bytes,).
        spans: which parts are free.
        holes: bytes that were given back to the system, and are used no more.
        references: buffers that lie in it. One without any may be given back, the least recently used first.
        last_used: number of the allocation or the return of a buffer that was the last one here.
    """

    source: Source
    block: Block
    bytes: NDArray[np.uint8] = field(init=False)
    spans: FreeSpans = field(init=False)
    holes: int = 0
    references: int = 0
    last_used: int = 0

    def __post_init__(self) -> None:
        self.bytes = self.block.memory.numpy()
        self.spans = FreeSpans(len(self.bytes))

    @property
    def held(self) -> int:
        """Return the bytes that it has of the system."""
        return len(self.bytes) - self.holes

    def discard(self, num_bytes: int) -> int:
        """Give free pages back to the system, the largest spans first, until it was so much; return how much."""
        before = self.holes
        while self.block.discard is not None and self.holes - before < num_bytes:
            offset, size = self.spans.largest()
            start, end = -(-offset // PAGE) * PAGE, (offset + size) // PAGE * PAGE
            if end - start < MIN_HOLE:
                break
            self.spans.take(size)
            self.block.discard(start, end - start)
            self.holes += end - start
        return self.holes - before


@dataclass(eq=False)
class Loan:
    """A part of a region that a buffer has.

    Attributes:
        region, offset, size: where it lies.
        asked: bytes that were asked for; `size` is that of their class.
        number: of the allocation.
        event: which ends before the part may be used again; None: there is nothing to wait for.
    """

    region: Region
    offset: int
    size: int
    asked: int
    number: int
    event: Any = None
