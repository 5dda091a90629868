"""GET /health: whether the workers live, and whether they get on."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from bitnet_jit.server.service import ServiceOf

router = APIRouter()


@router.get("/health")
async def health(service: ServiceOf) -> JSONResponse:
    """Return the state of each model's worker; 503 where one is dead or stuck."""
    states = service.watch.states()
    is_well = not {"dead", "stuck"} & set(states.values())
    return JSONResponse({"status": "ok" if is_well else "failing", "models": states}, 200 if is_well else 503)
