"""`RemoteWorker`: what other threads see of a worker whose parts are in another process."""

from concurrent.futures import Future
from threading import Condition
from typing import TYPE_CHECKING

from bitnet_jit.engine.text.processes.messages import Ready
from bitnet_jit.engine.text.processes.open_requests import OpenRequests
from bitnet_jit.engine.text.processes.session import Session
from bitnet_jit.engine.text.processes.totals import Totals
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.stats import ModelStats
from bitnet_jit.errors import DeviceFailed, EngineClosed, RequestCancelled

if TYPE_CHECKING:
    import torch


class RemoteWorker:
    """A worker that has a process, is about to have one, or has ended; see `Worker`.

    Attributes:
        name, device: of the worker.
        ready: what its first process told of the model, or the error that it ended with.
    """

    name: str
    device: "torch.device"
    ready: Future[Ready]
    _open: OpenRequests
    _changed: Condition  # guards what follows and the open requests; who holds it asks no group for anything
    _totals: Totals
    _session: Session | None  # the present process, also while it loads
    _closing: str
    _failure: str
    _has_ended: bool

    @property
    def is_alive(self) -> bool:
        """Return whether it takes requests: its process runs, or is started anew."""
        return not self._has_ended

    @property
    def is_ready(self) -> bool:
        """Return whether its process runs."""
        session = self._session
        return session is not None and session.ready is not None

    @property
    def pid(self) -> int | None:
        """Return the number of its process in the system; None while there is none."""
        session = self._session
        return None if session is None else session.pid

    @property
    def num_pages(self) -> int:
        """Return the pages that one text may fill."""
        return self.ready.result().num_pages

    @property
    def cache_bytes(self) -> int:
        """Return the bytes of its pages."""
        return self.ready.result().cache_bytes

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of its weights."""
        return self.ready.result().weight_bytes

    @property
    def num_open(self) -> int:
        """Return how many requests have not ended."""
        return len(self._open)

    @property
    def num_waiting(self) -> int:
        """Return how many requests have not begun."""
        with self._changed:
            return self._session.num_waiting if self._session is not None and self.is_ready else len(self._open)

    @property
    def requests(self) -> list[Request]:
        """Return the requests that have not ended."""
        return self._open.all()

    @property
    def last_step(self) -> float:
        """Return when its last step ended, or its process was ready, by time.monotonic()."""
        return self._totals.last_step

    def stats(self) -> ModelStats:
        """Return what it does, as its process told last, and counts of all of its processes."""
        with self._changed:
            present = None if self._session is None else self._session.stats
            told, is_ready, waiting = self._totals.with_present(present), self.is_ready, self.num_waiting
            values = vars(told) | {
                "waiting": min(waiting, len(self._open)),
                "running": max(0, len(self._open) - waiting),
                "new_tokens": self._totals.new_tokens,
                "finished": self._open.finished,
                "failed": self._open.failed,
                "last_step": self._totals.last_step,
                "alive": self.is_alive,
                "replicas_alive": int(is_ready),
                "restarts": self._totals.restarts,
            }
            gone = {} if is_ready else {"pages": 0, "pages_used": 0, "pages_kept": 0}
            return ModelStats(**values | gone)

    def tokens_before(self, request: Request) -> int:
        """Return how many tokens are computed before a request has its first one, were all that is open before it."""
        with self._changed:
            asks = self._session is not None and not request.needs_all
            known = self._session.pages.num_known(request.ids) if asks and self._session is not None else 0
            return sum(other.work for other in self._open.all()) + len(request.ids) - known

    def adopt(self, request: Request) -> bool:
        """Take a request that its engine has accepted before; return False where no more are taken."""
        with self._changed:
            if self._has_ended or self._closing:
                return False
            self._open.add(request)
            request.on_cancel = lambda: self._cancel(request)
            if self.is_ready and self._session is not None:
                self._session.send(request)
                self._session.try_suspect(len(self._open))
        if request.is_cancelled:
            self._cancel(request)
        return True

    def take_back(self) -> list[Request]:
        """Return no requests: those of a process that is stuck go elsewhere when it is ended, see `restart`."""
        return []

    def restart(self, reason: str) -> bool:
        """End the process, whose requests go on; it is started anew. Return False where the worker has ended."""
        with self._changed:
            if self._session is not None and self.is_ready:
                self._session.kill(reason)
            return self.is_alive

    def refusal(self, words: str) -> EngineClosed:
        """Return the error that tells why requests are not taken, or not written to their ends."""
        if self._closing:
            return EngineClosed(f"{words}: {self._closing}")
        return DeviceFailed(f"{words}: {self._failure}; load the model anew")

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until all requests have ended, or are another worker's."""
        self._open.wait_idle(timeout)

    def _cancel(self, request: Request) -> None:
        """End a request that was cancelled: in the process that has it, or here."""
        with self._changed:
            if self._open.get(request.number) is not request:
                return
            if self.is_ready and self._session is not None and self._session.cancel(request):
                return
            taken = self._open.take(request.number)
        self._open.end(taken, error=RequestCancelled("the request was cancelled by its caller"))
