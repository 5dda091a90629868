"""`Watch`: tells dead and stuck workers from busy ones, and ends the requests of one that is stuck."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from bitnet_jit.engine.embeddings.embedding import Embedding
from bitnet_jit.engine.text.generation import End, Generation
from bitnet_jit.errors import EngineClosed

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine
    from bitnet_jit.engine.text.local_worker import LocalWorker
    from bitnet_jit.engine.text.replicas import ReplicaGroup
    from bitnet_jit.engine.text.worker import Worker

logger = logging.getLogger(__name__)

STUCK_S = 120.0  # steps of a kind that has not been run yet compile kernels, which may take long
MAX_PAUSE_S = 1.0  # between two looks
WORST = ("stuck", "starting", "busy", "idle", "dead")  # of the workers of a model: it is dead where all of them are


@dataclass
class Progress:
    """What was seen of the steps of workers. A worker with nothing to do makes none.

    Attributes:
        stuck_s: seconds without a step after which a worker with work is stuck.
        seen: worker -> the end of its last step, and since when that has been its last one while it has work.
    """

    stuck_s: float = STUCK_S
    seen: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    def state(self, key: tuple[str, int], replica: "Worker | Any", now: float) -> str:
        """Return "dead", "starting", "stuck", "busy" or "idle".

        Args:
            key: the model, and which of its workers.
            replica: the worker.
            now: seconds of the monotonic clock.

        >>> from types import SimpleNamespace
        >>> progress = Progress(60)
        >>> worker = SimpleNamespace(is_alive=True, is_ready=True, requests=["one"], last_step=5.0)
        >>> progress.state(("m", 0), worker, 1000), progress.state(("m", 0), worker, 1061)
        ('busy', 'stuck')
        """
        if not replica.is_alive:
            return "dead"
        if not replica.is_ready or not replica.requests:
            self.seen.pop(key, None)
            return "idle" if replica.is_ready else "starting"
        last_step = replica.last_step
        last, since = self.seen.get(key, (None, now))
        if last != last_step:
            self.seen[key] = last_step, now
            return "busy"
        return "stuck" if now - since > self.stuck_s else "busy"


class Watch:
    """Looks at the workers of an engine while the server runs.

    Args:
        engine: whose workers.
        stuck_s: see `Progress`.
    """

    def __init__(self, engine: "InferenceEngine | Any", stuck_s: float = STUCK_S) -> None:
        self._engine, self._progress = engine, Progress(stuck_s)
        self._open: defaultdict[str, WeakSet[Generation | Embedding]] = defaultdict(WeakSet)

    def add(self, model_id: str, generations: Iterable[Generation | Embedding]) -> None:
        """Take note of texts that somebody waits for."""
        self._open[model_id].update(generations)

    def states(self) -> dict[str, str]:
        """Return the state of each model; those who wait for a worker that is stuck get EngineClosed."""
        now = time.monotonic()
        groups = {name: model.replica for name, model in self._engine.models.items() if model.replica is not None}
        return {name: self._state(name, group, now) for name, group in groups.items()}

    def _state(self, model_id: str, group: "LocalWorker | ReplicaGroup | Any", now: float) -> str:
        """Return the state of a model: of its living workers that of the worst one.

        Those that are stuck begin anew where they can, with their requests; others are passed by.
        """
        states = [self._progress.state((model_id, place), one, now) for place, one in enumerate(group.members)]
        stuck = []
        for place, replica in enumerate(group.members):
            if states[place] != "stuck":
                continue
            if replica.restart(f"it has made no step for {self._progress.stuck_s:g} s"):
                states[place] = "starting"
            else:
                stuck.append(replica)
        group.pass_by(stuck)
        for replica in stuck:
            self._fail(model_id, replica)
        return next(state for state in WORST if state in states)

    def _fail(self, model_id: str, replica: "Worker | Any") -> None:
        """End the texts that wait for a worker. What it may still write of them is read by nobody."""
        waiting = {request.generation for request in replica.requests} & set(self._open[model_id])
        if not waiting:
            return
        words = f"the worker of {model_id} has made no step for {self._progress.stuck_s:g} s"
        logger.error("%s; %d texts are given up", words, len(waiting))
        for generation in waiting:
            self._open[model_id].discard(generation)
            generation.cancel()
            generation.mailbox.put(End("", EngineClosed(words)))

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(min(MAX_PAUSE_S, self._progress.stuck_s / 4))
            self.states()
