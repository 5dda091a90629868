"""`BufferPool`: buffers of any size out of few regions of memory, within a limit, for any number of threads.

A buffer takes the smallest free span that holds its size class. Where there is none, it gets a region of its own. If
more would be held then than SLACK times what was ever in use, other memory is given back for it: regions that nobody
uses, the least recently used first, then free pages within the others. So sizes may mix and change as they like: what
is held stays near what is needed.
"""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from bitnet_jit.arguments import whole_number
from bitnet_jit.engine.memory.buffer import Buffer
from bitnet_jit.engine.memory.region import HOST, Loan, Region, Source
from bitnet_jit.engine.memory.size_classes import size_class
from bitnet_jit.engine.memory.statistics import MemoryStats
from bitnet_jit.errors import OutOfMemory
from bitnet_jit.system.forks import FORKS
from bitnet_jit.system.memory import in_words

DEFAULT_LIMIT_BYTES = 2**28
MAX_BYTES = 2**47
SLACK = 9 / 8  # at 1, every twelfth buffer more of a mixed load is a miss; above 5 / 4, a fifth of the memory is lost

Log = Callable[[int, int | None], None]


@dataclass(eq=False)
class Level:
    """The bytes of one source: held, in use now, and in use at most so far."""

    held: int = 0
    active: int = 0
    peak_active: int = 0


class Watch(weakref.ref[NDArray[np.uint8]]):
    """A weak reference to the bytes of a buffer, which knows their loan."""

    __slots__ = ("loan",)
    loan: Loan


class BufferPool:
    """Hands out buffers, and uses their memory again when nobody refers to it any more.

    Args:
        limit_bytes: that it may hold at most, in use or not.
        log: is told of every buffer: (its number, its bytes) when it is handed out, (its number, None) when its memory
            is free again. None: nobody is.

    Raises:
        InvalidInput: limit_bytes is no whole number of 0 or more.

    >>> import torch
    >>> pool = BufferPool(limit_bytes=2**20)
    >>> buffer = pool.allocate(4 * 1000)
    >>> x = buffer.tensor((10, 100), torch.float32)
    >>> buffer.release()
    >>> pool.statistics().active_bytes  # of x
    4000
    >>> del x
    >>> pool.statistics().active_bytes
    0
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES, log: Log | None = None) -> None:
        self.limit_bytes = whole_number("limit_bytes", limit_bytes, 0, MAX_BYTES)
        self._log = log
        self._begin()
        FORKS.in_child(beginning(weakref.ref(self)))

    def _begin(self) -> None:
        """Begin with nothing, as in a forked child: a thread may have been in the middle of a change."""
        self._lock = Lock()
        self._regions: list[Region] = []
        self._watches: dict[int, Watch] = {}  # by id: a weak reference has the hash of what it refers to
        # bytes that nobody refers to any more. The garbage collector may tell so within any line of ours, by this
        # thread: so no lock is taken there, and a deque is appended to in one step
        self._returned: deque[Watch] = deque()
        self._waiting: list[Loan] = []  # returned, but a copy is not done with them
        self._levels: dict[Source, Level] = {}
        self._held = self._peak = self._active = self._peak_active = 0
        self._allocations = self._hits = self._refused = self._evicted = self._clock = 0

    def allocate(self, num_bytes: int, source: Source = HOST) -> Buffer:
        """Return a buffer, aligned to 64 bytes and uninitialized.

        Raises:
            InvalidInput: num_bytes is no whole number of 0 or more.
            OutOfMemory: the limit, or the system's memory, does not suffice; nothing has changed but what nobody uses.
        """
        size = size_class(whole_number("num_bytes", num_bytes, 0, MAX_BYTES))
        with self._lock:
            self._allocations += 1
            self._collect()
            loan = self._take(size, num_bytes, source)
            if loan is None and self._waiting:
                self._collect(wait=self._held + source.size(size) > self.limit_bytes)
                loan = self._take(size, num_bytes, source)
            if loan is None:
                self._add_region(num_bytes, source.size(size), source)
                loan = self._take(size, num_bytes, source)
                assert loan is not None
            else:
                self._hits += 1
            self._use(num_bytes, source)
            array = loan.region.bytes[loan.offset : loan.offset + num_bytes]
            watch = Watch(array, self._returned.append)
            watch.loan = loan
            self._watches[id(watch)] = watch
            if self._log is not None:
                self._log(loan.number, num_bytes)
        return Buffer(array, loan)

    def trim(self, keep_bytes: int = 0) -> int:
        """Give memory that nobody uses back to the system, until so many bytes are held; return the bytes given."""
        with self._lock:
            self._collect()
            before = self._held
            self._shrink(before - keep_bytes)
            return before - self._held

    def statistics(self) -> MemoryStats:
        """Return the account, of one moment."""
        with self._lock:
            self._collect()
            memory = self._held, self._peak, self._active, self._peak_active
            counts = self._allocations, self._hits, self._refused, len(self._regions), self._evicted
            return MemoryStats(self.limit_bytes, *memory, *counts)

    def _collect(self, wait: bool = False) -> None:
        """Free what has been returned and no copy uses; `wait` for the copies, too."""
        while self._returned:
            watch = self._returned.popleft()
            del self._watches[id(watch)]
            self._use(-watch.loan.asked, watch.loan.region.source)
            self._waiting.append(watch.loan)
        busy = []
        for loan in self._waiting:
            if loan.event is not None and not wait and not loan.event.query():
                busy.append(loan)
                continue
            if loan.event is not None:
                loan.event.synchronize()
            self._clock += 1
            loan.region.spans.give(loan.offset, loan.size)
            loan.region.references, loan.region.last_used = loan.region.references - 1, self._clock
            if loan.region.holes and not loan.region.references:
                self._drop(loan.region)
            if self._log is not None:
                self._log(loan.number, None)
        self._waiting = busy

    def _take(self, size: int, num_bytes: int, source: Source) -> Loan | None:
        """Return a part of the region whose smallest sufficient span is the smallest; None where there is none."""
        best: tuple[int, Region] | None = None
        for region in self._regions:
            fits = region.spans.best(size) if region.source is source else None
            if fits is not None and (best is None or fits < best[0]):
                best = fits, region
        if best is None:
            return None
        region, self._clock = best[1], self._clock + 1
        offset = region.spans.take(size)
        assert offset is not None
        region.references, region.last_used = region.references + 1, self._clock
        return Loan(region, offset, size, num_bytes, self._allocations)

    def _add_region(self, num_bytes: int, size: int, source: Source) -> None:
        """Get memory from the system for so many bytes, after giving other memory back. Raises OutOfMemory."""
        level = self._levels.setdefault(source, Level())
        self._shrink(level.held + size - int(SLACK * max(level.peak_active, level.active + num_bytes)), source)
        self._shrink(self._held + size - self.limit_bytes)
        if self._held + size > self.limit_bytes:
            self._refused += 1
            used = f"{in_words(self._held)} of {in_words(self.limit_bytes)} are held"
            raise OutOfMemory(f"num_bytes: the pool has no room for {in_words(size)}, as {used}; release buffers")
        try:
            region = Region(source, source.allocate(size))
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            self._refused += 1
            raise OutOfMemory(f"num_bytes: the system gives no {in_words(size)} to the pool ({error})") from error
        self._regions.append(region)
        self._hold(size, source)

    def _shrink(self, num_bytes: int, source: Source | None = None) -> None:
        """Give memory of a source, or of any, back that nobody uses: so many bytes as far as there are."""
        in_order = sorted(
            (region for region in self._regions if source in (None, region.source)), key=lambda region: region.last_used
        )
        for region in in_order:
            if num_bytes > 0 and not region.references:
                num_bytes -= region.held
                self._drop(region)
        for region in in_order:
            if num_bytes > 0 and region.references:
                given = region.discard(num_bytes)
                num_bytes -= given
                self._hold(-given, region.source)

    def _drop(self, region: Region) -> None:
        """Give a region back."""
        self._regions.remove(region)
        self._hold(-region.held, region.source)
        self._evicted += 1

    def _hold(self, num_bytes: int, source: Source) -> None:
        """Count bytes that came from a source, or went back."""
        level = self._levels[source]
        level.held, self._held = level.held + num_bytes, self._held + num_bytes
        self._peak = max(self._peak, self._held)

    def _use(self, num_bytes: int, source: Source) -> None:
        """Count bytes that a buffer of a source has now, or has no more."""
        level = self._levels[source]
        level.active, self._active = level.active + num_bytes, self._active + num_bytes
        level.peak_active = max(level.peak_active, level.active)
        self._peak_active = max(self._peak_active, self._active)


def beginning(reference: weakref.ref[BufferPool]) -> Callable[[], None]:
    """Return what lets a pool begin anew, where it still lives."""

    def begin() -> None:
        pool = reference()
        if pool is not None:
            pool._begin()

    return begin
