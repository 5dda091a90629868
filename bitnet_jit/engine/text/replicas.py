"""`ReplicaGroup`: several replicas of one decoder, one per device, among which requests are shared out.

A request goes where it would end first: where the fewest tokens are to be computed before it, those of its own prompt
counted but not those whose pages are there already. Texts end before their limits, too: a replica that has nothing left
to do is given half of what waits elsewhere. Where a replica fails, its requests go on elsewhere. What they have
got stays: their ids are computed anew, and the next token is the one that it would have been.
"""

import logging
import time
from collections.abc import Iterable
from threading import RLock

from bitnet_jit.engine.text.delivery import finish
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.worker import Worker
from bitnet_jit.errors import EngineClosed, QueueFull

logger = logging.getLogger(__name__)


class ReplicaGroup:
    """The workers of one model.

    Args:
        name: of the model, for the log.
        max_waiting: requests that may wait, on all devices together.

    Attributes:
        members: the replicas, those that have failed among them.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._name, self._max_waiting = name, max_waiting
        self.members: tuple[Worker, ...] = ()
        self._stuck: frozenset[Worker] = frozenset()
        self._closing = ""
        self._lock = RLock()  # a collector of garbage may close the group in a thread that is in it

    def add(self, replica: Worker) -> None:
        """Take in a replica, whose successors are this group."""
        with self._lock:
            self.members = (*self.members, replica)

    @property
    def living(self) -> list[Worker]:
        """Return the replicas that have not failed."""
        return [replica for replica in self.members if replica.is_alive]

    @property
    def is_alive(self) -> bool:
        """Return whether one of them lives."""
        return bool(self.living)

    @property
    def num_pages(self) -> int:
        """Return the pages that one text may fill, wherever it is written."""
        return min(replica.num_pages for replica in self.members)

    @property
    def num_waiting(self) -> int:
        """Return how many requests have not begun."""
        return sum(replica.num_waiting for replica in self.members)

    def submit(self, request: Request) -> None:
        """Take a request; called by any thread.

        Raises:
            QueueFull: too many wait.
            EngineClosed, DeviceFailed: no more are taken, or all devices have failed.
        """
        with self._lock:
            if self._closing:
                raise EngineClosed(f"the engine takes no more requests: {self._closing}")
            if (waiting := self.num_waiting) >= self._max_waiting:
                raise QueueFull(f"{waiting} requests wait, as many as may (max_waiting); try again later")
            if not self._place(request):
                raise self.members[-1].refusal(f"the {len(self.members)} replicas of the model have failed")

    def has_other(self, replica: Worker) -> bool:
        """Return whether another replica lives."""
        return any(other is not replica for other in self.living)

    def idle(self, replica: Worker) -> Worker | None:
        """Return another replica that lives and has nothing to do; None where there is none."""
        others = (other for other in self.living if other is not replica and other.is_ready and not other.num_open)
        return next(others, None)

    def place(self, requests: list[Request]) -> list[Request]:
        """Give requests to the replicas where they would end first; return those that none takes."""
        with self._lock:
            return [request for request in requests if not self._place(request)]

    def take_over(self, replica: Worker, requests: list[Request], failure: str) -> list[Request]:
        """Have the requests of a replica that has failed go on elsewhere; return those for which none is left."""
        left = self.place(requests)
        logger.error(
            "%s on %s is out: %s; %d of its %d requests go on on %d other replicas",
            *(self._name, replica.device, failure, len(requests) - len(left), len(requests), len(self.living)),
        )
        return left

    def pass_by(self, stuck: Iterable[Worker]) -> None:
        """Give requests to others than these replicas, which make no steps; what they have not looked at goes on there.

        Args:
            stuck: all replicas that are to be passed by from now on.
        """
        with self._lock:
            self._stuck = frozenset(stuck)
            for replica in self._stuck:
                for request in replica.take_back():
                    if not self._place(request):  # all have ended in this moment
                        finish(request, "", replica.refusal("the request was not written to its end"))

    def close(self, reason: str, abandon: bool = False, timeout: float | None = None) -> None:
        """Take no more requests, end those that were taken, wherever they go on, and wait for it.

        Args:
            reason: why, for those who come later.
            abandon: whether requests are cancelled instead of written to their ends.
            timeout: seconds to wait; None: any time.
        """
        with self._lock:
            self._closing = self._closing or reason
        end = None if timeout is None else time.monotonic() + timeout
        if not abandon:
            self._wait_idle(end)
        for replica in self.members:
            replica.stop(reason, abandon)
        for replica in self.members:
            replica.close(reason, abandon, seconds_to(end))

    def _wait_idle(self, end: float | None) -> None:
        """Wait until no replica has a request: while one has, its requests may become another's."""
        while end is None or time.monotonic() < end:
            for replica in self.members:
                replica.wait_idle(seconds_to(end))
            with self._lock:  # under which requests go from one to another
                if not any(replica.num_open for replica in self.members):
                    return

    def _place(self, request: Request) -> bool:
        """Give a request to the replica where it would end first, under the lock; return whether one took it."""
        living = self.living
        if len(living) > 1:
            living.sort(
                key=lambda replica: (replica in self._stuck or not replica.is_ready, replica.tokens_before(request))
            )
        return any(replica.adopt(request) for replica in living)


def seconds_to(end: float | None) -> float | None:
    """Return the seconds to a moment of the monotonic clock, 0 once it has passed; None for None."""
    return None if end is None else max(0.0, end - time.monotonic())
