"""`Session`: one process of a worker, from its start to its end, and what the engine knows of it."""

import time
from collections import deque
from typing import Any

from bitnet_jit.engine.text.processes.messages import Cancel, Ready, Share, Start, Stop, Terms, Update
from bitnet_jit.engine.text.processes.process import Process
from bitnet_jit.engine.text.processes.sent_pages import SentPages
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.stats import ModelStats

ASK_AGAIN_S = 0.25  # for requests that wait there, where none have come back
SUSPECT_DEATHS = 2  # of processes that had a request: from then on it is tried by itself


class Session:
    """A process, and what it was sent.

    Args:
        start: what it is to load.

    Attributes:
        ready: what it told of its model, once it is loaded.
        stats: of its worker, as it told last.
        pages: that it was sent.
        failure: why it ends, where that is known.
        error: why it could not load its model, or None.
        begun: numbers of the requests that have been in a step.
        has_given: whether something has come of a request.
    """

    def __init__(self, start: Start) -> None:
        self._keeps = start.config.prefix_cache
        self._process = Process(start)
        self.ready: Ready | None = None
        self.stats: ModelStats | None = None
        self.pages = SentPages(0)
        self.failure = ""
        self.error: Exception | None = None
        self.begun: set[int] = set()
        self.has_given = False
        self._suspects: deque[Request] = deque()
        self._trial: Request | None = None  # a suspect that was sent last
        self._sent = self._taken = 0
        self._since = self._asked = 0.0

    @property
    def pid(self) -> int:
        """Return the process's number in the system."""
        return self._process.pid

    @property
    def worked_s(self) -> float:
        """Return for how long it has been ready."""
        return time.monotonic() - self._since if self._since else 0.0

    @property
    def num_waiting(self) -> int:
        """Return how many requests have not begun there, or were not looked at."""
        there = 0 if self.stats is None else self.stats.waiting
        return there + self._sent - self._taken + len(self._suspects)

    def begin(self, ready: Ready) -> None:
        """Note that its model is loaded."""
        self.ready, self._since = ready, time.monotonic()
        self.pages = SentPages(ready.num_pages if self._keeps else 0)

    def note(self, update: Update) -> None:
        """Note what it tells of itself."""
        self.stats, self._taken = update.stats or self.stats, update.taken

    def send(self, request: Request) -> None:
        """Send a request, or keep it for `try_suspect` where it may be what ended processes."""
        if request.deaths >= SUSPECT_DEATHS:
            self._suspects.append(request)
        else:
            self._post(request)

    def try_suspect(self, num_open: int) -> None:
        """Send the next suspect, once the one before has got a token, and others too.

        So a request that ends processes is the only one that gets no token before one ends.

        Args:
            num_open: requests that this process has or is to have.
        """
        if self._trial is not None and not self._trial.deaths:
            self._trial = None
        if self._suspects and self._trial is None and (self.has_given or num_open == len(self._suspects)):
            self._trial = self._suspects.popleft()
            self._post(self._trial)

    def forget(self, request: Request) -> None:
        """Note that a request has ended, or went elsewhere."""
        self.begun.discard(request.number)
        if self._trial is request:
            self._trial = None

    def _post(self, request: Request) -> None:
        """Send a request."""
        self._sent += 1
        self.pages.note(request.ids)
        self._process.post(Terms.of(request))
        if request.is_cancelled:
            self.cancel(request)

    def cancel(self, request: Request) -> bool:
        """Have a request end; return False where it was not sent, so that nothing will come of it."""
        if request in self._suspects:
            self._suspects.remove(request)
            return False
        self._process.post(Cancel(request.number))
        return True

    def ask_back(self) -> None:
        """Ask for half of what waits, not too often."""
        if (now := time.monotonic()) > self._asked + ASK_AGAIN_S:
            self._asked = now
            self._process.post(Share())

    def stop(self, reason: str) -> None:
        """Have it end behind its requests."""
        self._process.post(Stop(reason))

    def kill(self, reason: str) -> None:
        """End it at once."""
        self.failure = self.failure or reason
        self._process.kill()

    def receive(self) -> Any:
        """Wait for its next message. Raises EOFError where none will come."""
        return self._process.receive()

    def end(self) -> str:
        """Wait for its end; return in words why and how it ended."""
        how = self._process.end()
        return f"{self.failure} ({how})" if self.failure else f"its process has ended ({how})"
