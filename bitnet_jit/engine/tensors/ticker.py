"""`Ticker`: a source of tensors that come at fixed times, for threads and event loops."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import torch

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput

MAX_INTERVAL_MS = 1e9


class Ticker:
    """Makes a tensor at each tick. Tick n is n intervals after the first one; a late reader gets it at once.

    Args:
        make: number of the tick -> a tensor.
        interval_ms: milliseconds from tick to tick.
        count: how many ticks there are; None: no end.

    Raises:
        InvalidInput: an argument is out of range.

    >>> [int(x) for x in Ticker(torch.tensor, 1, count=3)]
    [0, 1, 2]
    """

    def __init__(self, make: Callable[[int], torch.Tensor], interval_ms: float, count: int | None = None) -> None:
        if not callable(make):
            raise InvalidInput(f"make: expected a function of the tick's number, got {show(make)}")
        interval = as_real(interval_ms)
        if interval is None or not 0 <= interval <= MAX_INTERVAL_MS:
            raise InvalidInput(
                f"interval_ms: expected 0 to {MAX_INTERVAL_MS:.0e} milliseconds, got {show(interval_ms)}"
            )
        self._make, self._interval_s = make, interval / 1e3
        self._count = None if count is None else whole_number("count", count, 0, none=True)

    def __iter__(self) -> Iterator[torch.Tensor]:
        begin = time.monotonic()
        for tick in self._ticks():
            time.sleep(self._left(begin, tick))
            yield self._make(tick)

    async def __aiter__(self) -> AsyncIterator[torch.Tensor]:
        begin = time.monotonic()
        for tick in self._ticks():
            await asyncio.sleep(self._left(begin, tick))
            yield self._make(tick)

    def _ticks(self) -> Iterator[int]:
        """Yield the numbers of all ticks."""
        tick = 0
        while self._count is None or tick < self._count:
            yield tick
            tick += 1

    def _left(self, begin: float, tick: int) -> float:
        """Return the seconds until a tick."""
        return max(0.0, begin + tick * self._interval_s - time.monotonic())
