"""GET /health: whether the workers live, and whether they get on."""

import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from bitnet_jit.server.service import ServiceOf

STUCK_S = 60.0  # a first step compiles kernels, which may take this long on a slow machine
router = APIRouter()


@dataclass
class Progress:
    """What was seen of the steps of workers. A worker with nothing to do makes none.

    Attributes:
        stuck_s: seconds without a step after which a worker with work is stuck.
        seen: model -> the end of its last step, and since when that has been its last one while it has work.
    """

    stuck_s: float = STUCK_S
    seen: dict[str, tuple[float | None, float]] = field(default_factory=dict)

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
        if model_id not in self.seen or last != stats.last_step:
            self.seen[model_id] = stats.last_step, now
            return "busy"
        return "stuck" if now - since > self.stuck_s else "busy"


@router.get("/health")
async def health(request: Request, service: ServiceOf) -> JSONResponse:
    """Return the state of each model's worker; 503 where one is dead or stuck."""
    progress: Progress = request.app.state.progress
    now = time.monotonic()
    states = {name: progress.state(name, stats, now) for name, stats in service.engine.stats().items()}
    is_well = not {"dead", "stuck"} & set(states.values())
    return JSONResponse({"status": "ok" if is_well else "failing", "models": states}, 200 if is_well else 503)
