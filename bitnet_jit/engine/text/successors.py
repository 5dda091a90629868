"""`Successors`: what a worker asks of those beside it."""

from typing import TYPE_CHECKING, Protocol

from bitnet_jit.engine.text.request import Request

if TYPE_CHECKING:
    from bitnet_jit.engine.text.worker import Worker


class Adopter(Protocol):
    """Who goes on with a request."""

    def adopt(self, request: Request) -> bool:
        """Take a request that an engine has accepted before; return False where it takes none."""


class Successors(Protocol):
    """Workers that go on where one of them fails, or has too much to do."""

    def idle(self, worker: "Worker") -> Adopter | None:
        """Return another one that lives and has nothing to do; None where there is none."""

    def has_other(self, worker: "Worker") -> bool:
        """Return whether another one lives."""

    def place(self, requests: list[Request]) -> list[Request]:
        """Give requests to those that live, this one among them if it does; return those that nobody takes."""

    def take_over(self, worker: "Worker", requests: list[Request], failure: str) -> list[Request]:
        """Take the requests of one that has failed; return those that nobody can go on with."""
