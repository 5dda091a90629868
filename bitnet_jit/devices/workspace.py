"""Scratch memory of the CPU kernels: one growing buffer per thread, which all of its calls share.

On a GPU scratch memory is torch's: its allocator hands a stream the same block again, and a graph has its own.
"""

import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

ALIGN = 64
MIN_BYTES = 1 << 16


@dataclass(frozen=True)
class WorkspaceStatistics:
    """The scratch memory of all threads.

    Attributes:
        threads: how many hold some.
        num_bytes: what they hold together.
        max_bytes: the most that they have held together so far.
        growths: how often a call needed more than its thread had: none, once every shape has been seen.
    """

    threads: int
    num_bytes: int
    max_bytes: int
    growths: int


class Pool:
    """The buffers of all threads, as long as their threads live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: WeakValueDictionary[int, NDArray[np.uint8]] = WeakValueDictionary()
        self._growths = self._most = 0

    def new(self, num_bytes: int, grown: bool) -> NDArray[np.uint8]:
        """Return a buffer, which is counted from now on."""
        buffer = np.empty(num_bytes, np.uint8)
        with self._lock:
            self._buffers[id(buffer)] = buffer
            self._growths += grown
            self._most = max(self._most, self._held())
        return buffer

    def _held(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def statistics(self) -> WorkspaceStatistics:
        """Return what is held now, and what was."""
        with self._lock:
            return WorkspaceStatistics(len(self._buffers), self._held(), self._most, self._growths)


POOL = Pool()


class Workspace(threading.local):
    """A thread's scratch memory. Its content lives until the thread's next call.

    Args:
        pool: where it is counted; None: with all others.

    >>> workspace = Workspace(Pool())
    >>> workspace.take(1000) % ALIGN, workspace.statistics().threads
    (0, 1)
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool or POOL  # one for all threads: each is initialized with the same argument
        self._grow(MIN_BYTES, grown=False)

    def _grow(self, num_bytes: int, grown: bool = True) -> None:
        self.num_bytes = 0  # until all is done: where memory is short, or Ctrl-C comes, the address is of no memory
        self._buffer: NDArray[np.uint8] | None = None  # what is given back may be what is taken
        self._buffer = self._pool.new(num_bytes + ALIGN, grown)
        self.address = -(-self._buffer.ctypes.data // ALIGN) * ALIGN
        self.num_bytes = num_bytes

    def take(self, num_bytes: int) -> int:
        """Return the address of at least `num_bytes` bytes, 64-byte aligned and uninitialized."""
        if num_bytes > self.num_bytes:
            self._grow(max(num_bytes, 2 * self.num_bytes))
        return self.address

    def release(self) -> None:
        """Give back what large calls have left."""
        self._grow(MIN_BYTES, grown=False)

    def statistics(self) -> WorkspaceStatistics:
        """Return the statistics of all threads that use this workspace."""
        return self._pool.statistics()
