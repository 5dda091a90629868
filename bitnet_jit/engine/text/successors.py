"""`Successors`: what a replica asks of those beside it."""

from typing import TYPE_CHECKING, Protocol

from bitnet_jit.engine.text.request import Request

if TYPE_CHECKING:
    from bitnet_jit.engine.text.replica import Replica


class Successors(Protocol):
    """Replicas that go on where one of them fails, or has too much to do."""

    def idle(self, replica: "Replica") -> "Replica | None":
        """Return another one that lives and has nothing to do; None where there is none."""

    def has_other(self, replica: "Replica") -> bool:
        """Return whether another one lives."""

    def take_over(self, replica: "Replica", requests: list[Request], failure: str) -> list[Request]:
        """Take the requests of one that has failed; return those that nobody can go on with."""
