"""`OpenRequests`: the requests of a worker in another process, kept here so that they outlive it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Condition

from bitnet_jit.engine.text.delivery import finish
from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import BitNetError


@dataclass
class OpenRequests:
    """Requests by their numbers, each with all the tokens that have come.

    Attributes:
        changed: guards them; who holds it asks no group of workers for anything.
        finished, failed: requests that ended, as asked and otherwise.
    """

    changed: Condition = field(default_factory=Condition)
    finished: int = 0
    failed: int = 0
    _requests: dict[int, Request] = field(default_factory=dict)
    _in_hand: int = 0  # taken out, and not yet ended or given to another worker

    def __len__(self) -> int:
        """Return how many have not ended, and are nobody else's."""
        return len(self._requests) + self._in_hand

    def all(self) -> list[Request]:
        """Return those that are here."""
        with self.changed:
            return [*self._requests.values()]

    def add(self, request: Request) -> None:
        """Take a request in."""
        with self.changed:
            self._requests[request.number] = request

    def get(self, number: int) -> Request | None:
        """Return a request; None where it has ended, or went elsewhere."""
        with self.changed:
            return self._requests.get(number)

    def take(self, number: int) -> list[Request]:
        """Take a request out, in a list; none where it is not here. It counts until `put_down`."""
        with self.changed:
            request = self._requests.pop(number, None)
            self._in_hand += request is not None
            return [] if request is None else [request]

    def take_all(self) -> list[Request]:
        """Take all requests out; they count until `put_down`."""
        with self.changed:
            taken = [*self._requests.values()]
            self._requests.clear()
            self._in_hand += len(taken)
            return taken

    def put_down(self, number: int) -> None:
        """Note that so many requests that were taken out have ended, or are another worker's."""
        with self.changed:
            self._in_hand -= number
            self.changed.notify_all()

    def end(self, requests: Iterable[Request], reason: str = "", error: BitNetError | None = None) -> None:
        """Tell who waits for requests, which were taken out, that they have ended."""
        for request in requests:
            with self.changed:
                self.finished += error is None
                self.failed += error is not None
            finish(request, reason, error)
            self.put_down(1)

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until all have ended, or are another worker's."""
        with self.changed:
            self.changed.wait_for(lambda: not len(self), timeout)
