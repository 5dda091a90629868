"""`Inbox`: where threads hand requests to a worker, and where they wait for it to have done them all."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition

from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import DeviceFailed, EngineClosed, QueueFull

PAUSE_S = 0.0005  # in which nobody comes: then an idle worker begins
GATHER_S = 0.01  # after which it begins in any case


@dataclass
class Inbox:
    """The requests that have come to a worker, and how many of all that it took have not ended.

    Args:
        max_waiting: requests that may wait.

    Attributes:
        came: those that the worker has not looked at.
        num_open: those that have not ended.
        closing: why no more are taken, or "".
        abandon: whether the worker is to end at once.
        has_ended: whether the worker looks here no more.
        error: the kind of error that those get whom it does not serve.
    """

    max_waiting: int
    came: deque[Request] = field(default_factory=deque)
    num_open: int = 0
    closing: str = ""
    abandon: bool = False
    has_ended: bool = False
    error: type[EngineClosed] = EngineClosed
    _changed: Condition = field(default_factory=Condition)

    def submit(self, request: Request, behind: int) -> None:
        """Take a request; `behind` wait already beside those that have come.

        Raises:
            QueueFull: too many wait.
            EngineClosed, DeviceFailed: no more are taken.
        """
        with self._changed:
            if self.closing:
                raise self.refusal("the engine takes no more requests")
            if (waiting := behind + len(self.came)) >= self.max_waiting:
                raise QueueFull(f"{waiting} requests wait, as many as may (max_waiting); try again later")
            self._take(request)

    def adopt(self, request: Request) -> bool:
        """Take a request that an engine has accepted before, whoever waits; return False where the worker has ended."""
        with self._changed:
            if not self.has_ended:
                self._take(request)
            return not self.has_ended

    def take_back(self) -> list[Request]:
        """Return the requests that the worker has not looked at, which are another's from now on."""
        with self._changed:
            left = [*self.came]
            self.came.clear()
            self.num_open -= len(left)
            self._changed.notify_all()
            return left

    def _take(self, request: Request) -> None:
        """Take a request, under the lock."""
        self.came.append(request)
        self.num_open += 1
        self._changed.notify_all()

    def refusal(self, words: str) -> EngineClosed:
        """Return the error that tells why requests are not taken, or not written to their ends."""
        return self.error(f"{words}: {self.closing}")

    def stop(self, reason: str, abandon: bool) -> None:
        """Refuse requests from now on."""
        with self._changed:
            self.closing, self.abandon = self.closing or reason, abandon
            self._changed.notify_all()

    def receive(self, add: Callable[[Request], None], wait: bool, patience: float | None = None) -> bool:
        """Hand what has come to the worker; return whether it is to go on.

        Args:
            add: takes one request.
            wait: whether to wait until some have come.
            patience: seconds after which it returns with none; None: it waits on.
        """
        with self._changed:
            while wait and not self.came:
                if self.closing:
                    self.has_ended = True
                    return False
                if not self._changed.wait(patience):
                    return True
            if wait:
                self._gather()
            while self.came:
                add(self.came.popleft())
            return not self.abandon

    def _gather(self) -> None:
        """Wait until no more come: what is asked for together is read together, not the first request by itself."""
        end, before = time.monotonic() + GATHER_S, 0
        while len(self.came) > before and time.monotonic() < end:
            before = len(self.came)
            self._changed.wait(PAUSE_S)

    def end(self, failure: str, error: type[EngineClosed]) -> list[Request]:
        """Note that the worker looks here no more; return what it has not looked at.

        Args:
            failure: why it ended, in words; "" where it was told to.
            error: what others get.
        """
        with self._changed:
            self.has_ended, self.error = True, error
            ended = "its worker has ended"
            hint = "; load the model anew, or onto several devices" if error is DeviceFailed else ""
            self.closing = f"{ended}: {failure}{hint}" if failure else self.closing or ended
            left = [*self.came]
            self.came.clear()
            return left

    def note_ended(self, requests: int = 1) -> None:
        """Note that so many requests have ended, or are another worker's."""
        with self._changed:
            self.num_open -= requests
            self._changed.notify_all()

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until all requests have ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self.num_open, timeout)
