"""`SentReplica`: the worker in a process of its own, and `Engine`: who it asks to go on where it does not."""

import os
from typing import Any

from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.text.processes.messages import Begun, Given, Lost
from bitnet_jit.engine.text.processes.outlet import Outlet
from bitnet_jit.engine.text.replica import Replica
from bitnet_jit.engine.text.request import Request
from bitnet_jit.engine.text.scheduler import Plan
from bitnet_jit.engine.text.successors import Adopter, Successors
from bitnet_jit.engine.text.worker import Worker
from bitnet_jit.generation.decoder import Decoder


class Engine:
    """The engine in the other process, as the worker here sees it: who goes on where this one does not.

    Args:
        outlet: leads there.
        has_others: whether there are other workers.

    Attributes:
        shares: whether somebody has nothing to do, and half of what waits is to be given back.
    """

    def __init__(self, outlet: Outlet, has_others: bool) -> None:
        self._outlet, self._has_others = outlet, has_others
        self.shares = False
        self.open: dict[int, Request] = {}

    def idle(self, worker: Worker) -> Adopter | None:  # noqa: ARG002
        """Return itself, once for each time that somebody has nothing to do."""
        shares, self.shares = self.shares, False
        return self if shares else None

    def has_other(self, worker: Worker) -> bool:  # noqa: ARG002
        """Return whether there are others: the engine knows whether they live."""
        return self._has_others

    def adopt(self, request: Request) -> bool:
        """Give a request back."""
        self.open.pop(request.number, None)
        self._outlet.put(Given(request.number))
        return True

    def place(self, requests: list[Request]) -> list[Request]:
        """Give requests back; none is left."""
        return [request for request in requests if not self.adopt(request)]

    def take_over(self, worker: Worker, requests: list[Request], failure: str) -> list[Request]:  # noqa: ARG002
        """Tell that the worker has ended, and end the process: the engine has all that it needs to go on."""
        self._outlet.put(Lost(failure))
        self._outlet.finish()
        os._exit(1)  # without what Python does at its end, which asks a device that may have failed


class SentReplica(Replica):
    """A worker whose tokens are sent once per step, and which tells of each request before its first step.

    Args:
        outlet: where its requests put them.
        decoder, config, num_pages, name, successors: as of a `Replica`.
    """

    def __init__(
        self,
        outlet: Outlet,
        decoder: Decoder,
        config: EngineConfig,
        num_pages: int,
        name: str,
        successors: Successors,
    ) -> None:
        self._outlet = outlet
        super().__init__(decoder, config, num_pages, name, successors)

    def _take_in(self) -> bool:
        """Have the last step's tokens sent, and do as all workers do."""
        self._outlet.flush()
        return super()._take_in()

    def _plan(self) -> Plan:
        """Tell which requests are new in the next step, and return it."""
        plan = super()._plan()
        handles: dict[int, Any] = {request.number: request.generation for request in plan}
        if new := [number for number, handle in handles.items() if not handle.is_planned]:
            for number in new:
                handles[number].is_planned = True
            self._outlet.put_through(Begun(new))
        return plan
