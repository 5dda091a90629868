"""`Slots`: places in a queue, for which threads and event loops wait in one line, in the order in which they came."""

import asyncio
from collections import deque
from concurrent.futures import Future
from threading import Lock

from bitnet_jit.errors import EngineClosed, QueueFull


class Slots:
    """A counted number of places; each is taken once until it is released.

    Args:
        count: how many there are.

    >>> slots = Slots(1)
    >>> slots.acquire()
    >>> slots.acquire(timeout_s=0)
    Traceback (most recent call last):
    bitnet_jit.errors.QueueFull: all 1 places are taken; try again later
    >>> slots.release()
    >>> slots.free
    1
    """

    def __init__(self, count: int) -> None:
        self.count = self._free = count
        self._lock = Lock()
        self._waiting: deque[Future[None]] = deque()
        self._closed = ""

    @property
    def free(self) -> int:
        """Return how many can be taken at once."""
        return self._free

    def acquire(self, timeout_s: float | None = None) -> None:
        """Take a slot; wait in a thread until there is one.

        Raises:
            QueueFull: there was none for `timeout_s` seconds.
            EngineClosed: they have been closed, before or meanwhile.
        """
        waiter = self._join_line()
        if waiter is None:
            return
        try:
            waiter.result(timeout_s)
        except TimeoutError:
            if waiter.cancel():
                raise QueueFull(f"all {self.count} places are taken; try again later") from None
            waiter.result()  # it came in the last moment
        except BaseException:  # Ctrl-C; or closed, where there is nothing to give back
            self._leave_line(waiter)
            raise

    async def acquire_async(self) -> None:
        """Take a slot; wait in an event loop until there is one. Raises EngineClosed as `acquire`."""
        waiter = self._join_line()
        if waiter is None:
            return
        try:
            await asyncio.wrap_future(waiter)
        except BaseException:
            self._leave_line(waiter)
            raise

    def release(self) -> None:
        """Give a slot back; the first in the line gets it."""
        with self._lock:
            while self._waiting:
                waiter = self._waiting.popleft()
                if waiter.set_running_or_notify_cancel():
                    break
            else:
                self._free += 1
                return
        waiter.set_result(None)

    def close(self, reason: str) -> None:
        """Refuse everybody from now on, and those who wait."""
        with self._lock:
            self._closed = reason
            waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if waiter.set_running_or_notify_cancel():
                waiter.set_exception(EngineClosed(reason))

    def _join_line(self) -> "Future[None] | None":
        """Take a free slot, or return what tells when there is one."""
        with self._lock:
            if self._closed:
                raise EngineClosed(self._closed)
            if self._free:
                self._free -= 1
                return None
            waiter: Future[None] = Future()
            self._waiting.append(waiter)
            return waiter

    def _leave_line(self, waiter: "Future[None]") -> None:
        """Wait no more; a slot that was handed over already is given back."""
        if not waiter.cancel() and not waiter.cancelled() and waiter.exception() is None:
            self.release()
