"""`SizeSearch`: how many rows a batch should have, by what batches took and what memory was left.

Plain bookkeeping: it calls no module and looks at no clock, so that any history can be tried on it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput

MAX_ROWS = 2**31 - 1
SAMPLES = 3  # batches of a size before it is judged: the median of fewer is one disturbed call
KEPT = 9  # of them, for the median
GAIN = 1.02  # by which a size must be faster than half of it: smaller batches answer sooner and take less memory
LOOK_EVERY = 16  # batches between two looks at the memory, each of which takes some 20 us
SEARCH_EVERY = 512  # batches after which the search begins anew: other programs and free memory may have changed


@dataclass(frozen=True)
class BatchingConfig:
    """How `BatchProcessor` may choose the size of its batches.

    Attributes:
        initial: rows of the first batch.
        min_rows: rows of the smallest batch that is chosen; only a batch that does not fit is halved below it.
        max_rows: rows of the largest batch.
        max_latency_ms: milliseconds that a batch may take; sizes that took longer are left. None: any.
        memory_threshold: share of the device's memory in use, by whomever, above which batches shrink.

    Raises:
        InvalidInput: an attribute is out of range; the message names it.

    >>> BatchingConfig(initial=0)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: initial: expected a whole number of at least 1, got 0
    """

    initial: int = 32
    min_rows: int = 1
    max_rows: int = 65536
    max_latency_ms: float | None = None
    memory_threshold: float = 0.9

    def __post_init__(self) -> None:
        least = whole_number("min_rows", self.min_rows, 1, MAX_ROWS)
        most = whole_number("max_rows", self.max_rows, least, MAX_ROWS)
        initial = whole_number("initial", self.initial, 1, MAX_ROWS)
        if not least <= initial <= most:
            raise InvalidInput(f"initial: expected {least} to {most} (min_rows to max_rows), got {initial}")
        latency, share = as_real(self.max_latency_ms), as_real(self.memory_threshold)
        if self.max_latency_ms is not None and not (latency is not None and latency > 0):
            raise InvalidInput(f"max_latency_ms: expected a positive number or None, got {show(self.max_latency_ms)}")
        if share is None or not 0 < share <= 1:
            raise InvalidInput(f"memory_threshold: expected 0 < share <= 1, got {show(self.memory_threshold)}")


@dataclass
class Measured:
    """What batches of one size took.

    Attributes:
        batches, rows: how many there were, and their rows.
        rates: rows per second of the last ones.
        seconds: of the last ones.
    """

    batches: int = 0
    rows: int = 0
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self.batches, self.rows = self.batches + 1, self.rows + rows
        self.rates.append(rows / max(seconds, 1e-9))
        self.seconds.append(seconds)

    def forget(self) -> None:
        """Begin the medians anew; the counts stay."""
        self.rates.clear()
        self.seconds.clear()


class SizeSearch:
    """The size of the next batch: doubled while that makes rows faster, halved where memory or time do not allow it.

    Args:
        config: the limits.
        memory_used: returns the share of memory in use, 0 to 1.

    Attributes:
        size: rows of the next batch.
        limit: rows that no batch may exceed for now.
        settled: whether the size is not being compared with others at the moment.
        measured: size -> what its batches took.
        out_of_memory: batches that did not fit.

    >>> search = SizeSearch(BatchingConfig(initial=8), lambda: 0.5)
    >>> while not search.settled:  # a call takes 1 ms, and 1 us per row; memory suffices for 100 rows
    ...     search.fail(search.size) if search.size > 100 else search.record(search.size, 1e-3 + 1e-6 * search.size)
    >>> search.size, search.out_of_memory
    (64, 1)
    """

    def __init__(self, config: BatchingConfig, memory_used: Callable[[], float]) -> None:
        self.config, self._memory_used = config, memory_used
        self.size, self.limit = config.initial, config.max_rows
        self.settled, self.out_of_memory = False, 0
        self.measured: dict[int, Measured] = {}
        self._since_look = self._since_search = 0

    def record(self, rows: int, seconds: float) -> None:
        """Learn what a batch of `rows` rows took; batches that are much smaller than `size` tell nothing of it."""
        self._since_search += 1
        self._since_look += 1
        if self._since_look >= LOOK_EVERY and self._must_shrink():
            return
        if self._since_search >= SEARCH_EVERY:
            self._begin_anew()
        if 4 * rows < 3 * self.size or rows > self.size:
            return
        measured = self.measured.setdefault(self.size, Measured())
        measured.add(rows, seconds)
        if not self.settled and len(measured.rates) >= SAMPLES:
            self._judge(measured)

    def fail(self, rows: int) -> None:
        """Learn that memory did not suffice for a batch: none of that many rows is tried for a while."""
        self.out_of_memory += 1
        self.settled = False
        self._since_search = 0
        self.limit = min(self.limit, max(1, rows - 1))
        while self.size > self.limit:
            self.size = max(1, self.size // 2)

    def _judge(self, measured: Measured) -> None:
        """Take a size that is better than the present one, or stay."""
        half = self.measured.get(self.size // 2)
        slow = self.config.max_latency_ms is not None and 1e3 * median(measured.seconds) > self.config.max_latency_ms
        if slow:
            self.settled = self.size // 2 < self.config.min_rows
            if not self.settled:
                self.limit = self.size = self.size // 2
        elif half is not None and half.rates and median(measured.rates) < GAIN * median(half.rates):
            self.size //= 2
            self.settled = True
        elif 2 * self.size <= self.limit and not self._must_shrink():
            self.size *= 2
        else:
            self.settled = True

    def _must_shrink(self) -> bool:
        """Look at the memory; halve the size if too much is in use."""
        self._since_look = 0
        if self._memory_used() <= self.config.memory_threshold:
            return False
        self.settled, self._since_search = True, 0
        self.limit = min(self.limit, max(self.config.min_rows, self.size // 2))
        self.size = min(self.size, self.limit)
        return True

    def _begin_anew(self) -> None:
        """Compare sizes again, and allow twice the limit that short memory or slow batches have set."""
        self._since_search = 0
        self.settled = False
        self.limit = min(self.config.max_rows, 2 * self.limit)
        for measured in self.measured.values():
            measured.forget()
        self.size = min(self.limit, max(self.config.min_rows, self.size // 2))
