"""`LocalWorker`: what other threads see of a worker in this process, read while its thread goes on."""

from abc import abstractmethod
from collections.abc import Iterable
from threading import Thread
from typing import TYPE_CHECKING

from bitnet_jit.engine.text.counts import Counts
from bitnet_jit.engine.text.inbox import Inbox
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Scheduler
from bitnet_jit.engine.text.stats import ModelStats
from bitnet_jit.errors import EngineClosed

if TYPE_CHECKING:
    import torch

    from bitnet_jit.engine.text.worker import Worker
    from bitnet_jit.engine.text.writer import Writer


class LocalWorker:
    """A worker whose parts are in this process; see `Worker`.

    Attributes:
        name, device: of its thread, and of its decoder.
        scheduler: its requests.
        counts: what it has done.
        inbox: those that come to it, and how many have not ended.
    """

    name: str
    device: "torch.device"
    scheduler: Scheduler
    counts: Counts
    inbox: Inbox
    _writer: "Writer"
    _thread: Thread

    @property
    def members(self) -> "tuple[Worker, ...]":
        """Return itself: several replicas are asked in the same way."""
        return (self,)

    @property
    def is_alive(self) -> bool:
        """Return whether its thread runs, and takes requests."""
        return self._thread.is_alive() and not self.inbox.has_ended

    @property
    def is_ready(self) -> bool:
        """Return whether it lives: a thread begins at once."""
        return self.is_alive

    @property
    def num_pages(self) -> int:
        """Return the pages that one text may fill."""
        return self.scheduler.cache.pool.count

    @property
    def cache_bytes(self) -> int:
        """Return the bytes of its pages."""
        return self.scheduler.cache.num_bytes

    @property
    def num_open(self) -> int:
        """Return how many requests have not ended."""
        return self.inbox.num_open

    @property
    def num_waiting(self) -> int:
        """Return how many requests have not begun."""
        return len(self.inbox.came) + len(self.scheduler.waiting)

    @property
    def requests(self) -> list[Request]:
        """Return the requests that have not ended; from another thread, those of about this moment."""
        return [*self.scheduler.running, *self.scheduler.waiting, *self.inbox.came]

    @property
    def last_step(self) -> float:
        """Return when its last step ended, by time.monotonic()."""
        return self.counts.last_step

    def stats(self) -> ModelStats:
        """Return what it does; numbers may be of neighbouring steps."""
        scheduler, counts = self.scheduler, self.counts
        pool, prefixes = scheduler.cache.pool, scheduler.prefixes
        return ModelStats(
            waiting=self.num_waiting,
            running=len(scheduler.running),
            pages=pool.count,
            pages_used=pool.count - pool.num_free,
            pages_kept=0 if prefixes is None else len(prefixes),
            prompt_tokens=counts.prompt_tokens,
            new_tokens=counts.new_tokens,
            prefix_asked_tokens=0 if prefixes is None else prefixes.asked,
            prefix_hit_tokens=0 if prefixes is None else prefixes.hits,
            steps=counts.steps,
            preemptions=scheduler.preemptions,
            guessed=self._writer.guessed,
            accepted=self._writer.accepted,
            finished=counts.finished,
            failed=counts.failed,
            last_step=counts.last_step,
            alive=(alive := self.is_alive),
            replicas_alive=int(alive),
        )

    def tokens_before(self, request: Request) -> int:
        """Return how many tokens are computed before a request has its first one, were all that is open before it."""
        prefixes = self.scheduler.prefixes
        known = 0 if prefixes is None or request.needs_all else prefixes.num_known(request.ids)
        return sum(other.work for other in self.requests) + len(request.ids) - known

    def submit(self, request: Request) -> None:
        """Take a request; called by any thread.

        Raises:
            QueueFull: too many wait.
            EngineClosed, DeviceFailed: no more are taken.
        """
        self.inbox.submit(request, len(self.scheduler.waiting))

    def adopt(self, request: Request) -> bool:
        """Take a request that its engine has accepted before; return False where the worker has ended."""
        return self.inbox.adopt(request)

    def take_back(self) -> list[Request]:
        """Return the requests that the worker has not looked at, which are another's from now on."""
        return self.inbox.take_back()

    def pass_by(self, stuck: "Iterable[Worker]") -> None:
        """Do nothing: no other replica could be given its requests."""

    def restart(self, reason: str) -> bool:  # noqa: ARG002  a process uses it
        """Return False: a thread cannot be ended from outside."""
        return False

    def refusal(self, words: str) -> EngineClosed:
        """Return the error that tells why requests are not taken, or not written to their ends."""
        return self.inbox.refusal(words)

    def stop(self, reason: str, abandon: bool) -> None:
        """Refuse requests from now on."""
        self.inbox.stop(reason, abandon)

    @abstractmethod
    def close(self, reason: str, abandon: bool = False, timeout: float | None = None) -> None:
        """Stop, and wait for the end."""

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until all requests have ended."""
        self.inbox.wait_idle(timeout)
