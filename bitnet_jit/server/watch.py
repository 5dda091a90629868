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

logger = logging.getLogger(__name__)

STUCK_S = 120.0  # steps of a kind that has not been run yet compile kernels, which may take long
MAX_PAUSE_S = 1.0  # between two looks


@dataclass
class Progress:
    """What was seen of the steps of workers. A worker with nothing to do makes none.

    Attributes:
        stuck_s: seconds without a step after which a worker with work is stuck.
        seen: model -> the end of its last step, and since when that has been its last one while it has work.
    """

    stuck_s: float = STUCK_S
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def state(self, model_id: str, stats: Any, now: float) -> str:
        """Return "dead", "stuck", "busy" or "idle".

        Args:
            model_id: the model.
            stats: of the model, by the engine.
            now: seconds of the monotonic clock.

        >>> from types import SimpleNamespace
        >>> progress, stats = Progress(60), SimpleNamespace(alive=True, waiting=1, running=0, last_step=5.0)
        >>> progress.state("m", stats, 1000), progress.state("m", stats, 1061)
        ('busy', 'stuck')
        """
        if not stats.alive:
            return "dead"
        if not (stats.waiting or stats.running):
            self.seen.pop(model_id, None)
            return "idle"
        last, since = self.seen.get(model_id, (None, now))
        if last != stats.last_step:
            self.seen[model_id] = stats.last_step, now
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
        """Return the state of each model's worker; those who wait for a stuck one get EngineClosed."""
        now = time.monotonic()
        result = {name: self._progress.state(name, stats, now) for name, stats in self._engine.stats().items()}
        for name, state in result.items():
            if state == "stuck" and self._open[name]:
                self._fail(name)
        return result

    def _fail(self, model_id: str) -> None:
        """End all texts that wait for a model. What its worker may still write is read by nobody."""
        words = f"the worker of {model_id} has made no step for {self._progress.stuck_s:g} s"
        logger.error("%s; %d texts are given up", words, len(self._open[model_id]))
        for generation in self._open.pop(model_id):
            generation.cancel()
            generation.mailbox.put(End("", EngineClosed(words)))

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(min(MAX_PAUSE_S, self._progress.stuck_s / 4))
            self.states()
