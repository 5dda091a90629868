"""`Staging`: tensors to a device and back through page-locked buffers, beside the device's work.

    parts -> staging buffer -> (copy stream) -> input -> module -> (copy stream) -> staging buffer -> result

Large tensors go in chunks: while one is on its way, the CPU fills or empties the next. The module's stream waits for
its input by an event on the device, the CPU waits for a result by an event, and the pool hands no buffer out again
before the event of its last copy.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

import torch

from bitnet_jit.devices.copies import Copies, Copy
from bitnet_jit.devices.huge_pages import HUGE_PAGES
from bitnet_jit.engine.memory.buffer import Buffer
from bitnet_jit.engine.memory.pool import BufferPool
from bitnet_jit.engine.memory.region import PINNED, Source

CHUNK_BYTES = 2**24
MAX_UNTIMED = 64  # copies whose times are still to be read


@dataclass(frozen=True)
class Staged:
    """A part of a result on its way: rows `begin` and following come into `host`, of `buffer`, by `copy`."""

    begin: int
    host: torch.Tensor
    buffer: Buffer
    copy: Copy


class Staging:
    """Moves tensors through a pool's page-locked buffers, and keeps an account of it.

    Args:
        pool: of the buffers.
        source: of their memory.
        chunk_bytes: that go at a time, at most.
    """

    def __init__(self, pool: BufferPool, source: Source = PINNED, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._pool, self._source, self._lock = pool, source, Lock()
        self._chunk_bytes = chunk_bytes
        self._untimed: deque[tuple[Copy, int]] = deque()
        self._operations = self._num_bytes = 0
        self._seconds = 0.0

    def send(self, parts: list[torch.Tensor], copies: Copies) -> torch.Tensor:
        """Return the rows of parts on a device, (rows, ...), joined; its work from now on waits for them.

        Args:
            parts: (rows of the part, ...) on the CPU, alike in the other dimensions and dtype.
            copies: of the device.

        Raises:
            OutOfMemory: the pool has no room for a chunk.
        """
        x = copies.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
        begin = 0
        for chunk in chunks(parts, self._chunk_bytes):
            rows = sum(len(part) for part in chunk)
            buffer, host = self._host((rows, *x.shape[1:]), x.dtype)
            join_into(chunk, host)
            copy = copies.send(host, x[begin : begin + rows])
            buffer.hold_until(copy)
            self._count(copy, host.nbytes)
            begin += rows
            del buffer, host  # released: the event keeps the bytes
        copies.use(x)
        return x

    def receive(self, y: torch.Tensor, copies: Copies) -> list[Staged]:
        """Begin to copy a result (rows, ...) to the CPU behind the work that makes it; `finish` waits for it.

        Raises:
            OutOfMemory: the pool has no room for it.
        """
        y, parts, begin = y.contiguous(), [], 0
        for (part,) in chunks([y], self._chunk_bytes):
            buffer, host = self._host(part.shape, part.dtype)
            copy = copies.receive(part, host)
            buffer.hold_until(copy)
            self._count(copy, host.nbytes)
            parts.append(Staged(begin, host, buffer, copy))
            begin += len(part)
        return parts

    def finish(self, parts: list[Staged]) -> torch.Tensor:
        """Return what `receive` began to copy, in memory of its own; the parts are used up."""
        last = parts[-1]
        shape = (last.begin + len(last.host), *last.host.shape[1:])
        out = HUGE_PAGES.empty(shape, last.host.dtype, alone=True)
        for part in parts:
            part.copy.synchronize()
            out[part.begin : part.begin + len(part.host)].copy_(part.host)
            part.buffer.release()
        parts.clear()
        return out

    def account(self) -> tuple[int, int, float]:
        """Return how many buffers were copied, and bytes and seconds of the copies that have ended."""
        with self._lock:
            self._read_times(MAX_UNTIMED)
            return self._operations, self._num_bytes, self._seconds

    def _host(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[Buffer, torch.Tensor]:
        """Return a staging buffer and a tensor over it."""
        buffer = self._pool.allocate(torch.Size(shape).numel() * dtype.itemsize, self._source)
        return buffer, buffer.tensor(shape, dtype)

    def _count(self, copy: Copy, num_bytes: int) -> None:
        """Note a copy, and read the times of some that have ended."""
        with self._lock:
            self._operations += 1
            self._untimed.append((copy, num_bytes))
            self._read_times(2)
            if len(self._untimed) > MAX_UNTIMED:
                self._untimed.popleft()

    def _read_times(self, most: int) -> None:
        """Add up the times of the oldest copies, as far as they have ended."""
        while most and self._untimed and self._untimed[0][0].query():
            copy, num_bytes = self._untimed.popleft()
            self._num_bytes, self._seconds = self._num_bytes + num_bytes, self._seconds + copy.seconds()
            most -= 1


def chunks(parts: list[torch.Tensor], num_bytes: int) -> Iterator[list[torch.Tensor]]:
    """Yield parts in groups of so many bytes at most, cut between rows where one is larger; a row is never cut.

    >>> [[len(part) for part in group] for group in chunks([torch.ones(3, 2), torch.ones(9, 2)], num_bytes=32)]
    [[3, 1], [4], [4]]
    """
    row = max(1, parts[0].shape[1:].numel() * parts[0].dtype.itemsize)
    size = max(1, num_bytes // row)
    group: list[torch.Tensor] = []
    room = size
    for part in parts:
        while len(part) >= room:
            yield [*group, part[:room]]
            group, part, room = [], part[room:], size
        if len(part):
            group.append(part)
            room -= len(part)
    if group:
        yield group


def join_into(parts: list[torch.Tensor], out: torch.Tensor) -> None:
    """Copy the rows of parts into a tensor of as many."""
    if len(parts) == 1:
        out.copy_(parts[0])
    else:
        torch.cat(parts, out=out)
