"""`Deadlines`: one thread that calls functions when their times have come."""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from threading import Condition, Thread


@dataclass(order=True, slots=True)
class Deadline:
    """A time, a number that orders equal times, and what is to be called; None: nothing any more."""

    time: float
    number: int
    function: Callable[[], None] | None = field(compare=False)


class Deadlines:
    """Calls functions at their times, by a clock that never jumps. Its thread starts with the first of them.

    >>> deadlines, called = Deadlines(), []
    >>> forget = deadlines.call_in(0.001, lambda: called.append(1))
    >>> forget = deadlines.call_in(0.002, lambda: called.append(2))
    >>> forget()
    >>> time.sleep(0.2)
    >>> called
    [1]
    >>> deadlines.close()
    """

    def __init__(self) -> None:
        self._heap: list[Deadline] = []
        self._numbers = count()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closed = False
        self._forgotten = 0

    def call_in(self, seconds: float, function: Callable[[], None]) -> Callable[[], None]:
        """Call a function so many seconds from now; it must not raise, and must not take long.

        Returns:
            A function that forgets it.
        """
        with self._changed:
            deadline = Deadline(time.monotonic() + seconds, next(self._numbers), function)
            if not self._closed:
                heapq.heappush(self._heap, deadline)
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="bitnet_jit deadlines", daemon=True)
                    self._thread.start()
                elif self._heap[0] is deadline:
                    self._changed.notify()
        return lambda: self._forget(deadline)

    def _forget(self, deadline: Deadline) -> None:
        """Call a function no more; its place is cleared with others, when they are half of all."""
        with self._changed:
            if deadline.function is None:
                return
            deadline.function = None
            self._forgotten += 1
            if 2 * self._forgotten > len(self._heap):
                self._heap = [left for left in self._heap if left.function is not None]
                heapq.heapify(self._heap)
                self._forgotten = 0

    def close(self) -> None:
        """Call nothing more."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            function()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next function whose time has come, and return it; None where there will be none."""
        with self._changed:
            while not self._closed:
                left = self._heap[0].time - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    deadline = heapq.heappop(self._heap)
                    function, deadline.function = deadline.function, None
                    if function is not None:
                        return function
                    self._forgotten -= 1
                else:
                    self._changed.wait(left)
            return None
