"""`Worker`: what the rest of the engine asks of the worker of one device, be it a thread or a process of its own."""

from typing import TYPE_CHECKING, Protocol

from bitnet_jit.engine.text.request import Request

if TYPE_CHECKING:
    import torch

    from bitnet_jit.engine.text.stats import ModelStats
    from bitnet_jit.errors import EngineClosed


class Worker(Protocol):
    """The worker of one decoder on one device; every method may be called by any thread."""

    @property
    def name(self) -> str:
        """Return its name, for the log."""

    @property
    def device(self) -> "torch.device":
        """Return the device on which it writes."""

    @property
    def is_alive(self) -> bool:
        """Return whether it takes requests."""

    @property
    def is_ready(self) -> bool:
        """Return whether it can begin with a request now: it is alive, and not on its way to be."""

    @property
    def num_pages(self) -> int:
        """Return the pages that one text may fill."""

    @property
    def cache_bytes(self) -> int:
        """Return the bytes of those pages."""

    @property
    def num_open(self) -> int:
        """Return how many requests have not ended."""

    @property
    def num_waiting(self) -> int:
        """Return how many requests have not begun."""

    @property
    def requests(self) -> list[Request]:
        """Return the requests that have not ended, as of about this moment."""

    @property
    def last_step(self) -> float:
        """Return when its last step ended, by time.monotonic()."""

    def stats(self) -> "ModelStats":
        """Return what it does."""

    def tokens_before(self, request: Request) -> int:
        """Return how many tokens are computed before a request has its first one, were all that is open before it."""

    def adopt(self, request: Request) -> bool:
        """Take a request that its engine has accepted before; return False where the worker has ended."""

    def take_back(self) -> list[Request]:
        """Return requests that it has not looked at, which are another's from now on."""

    def restart(self, reason: str) -> bool:
        """Begin anew where it is stuck, its requests with it; return False where that is not possible."""

    def refusal(self, words: str) -> "EngineClosed":
        """Return the error that tells why requests are not taken, or not written to their ends."""

    def stop(self, reason: str, abandon: bool) -> None:
        """Refuse requests from now on, and end once those that were taken have ended; at once if they are abandoned."""

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until all requests have ended."""

    def close(self, reason: str, abandon: bool = False, timeout: float | None = None) -> None:
        """Stop, and wait for the end; see `ReplicaGroup.close`."""
