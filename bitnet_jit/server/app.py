"""`make_app`: an engine as an ASGI application."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

import bitnet_jit
from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.server import chat, completions, embeddings, health, metrics, models, tokens
from bitnet_jit.server.answers import ErrorResponse
from bitnet_jit.server.errors import add_handlers
from bitnet_jit.server.limits import Gate, Limits
from bitnet_jit.server.service import Service
from bitnet_jit.server.watch import STUCK_S, Watch

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

PAGE_RULES = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TOKENIZERS = 4  # threads
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in ("4XX", "5XX")}
router = APIRouter()


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """Return the page on which one tries a model."""
    text = files("bitnet_jit.server").joinpath("page.html").read_text("utf-8")
    return HTMLResponse(text, headers={"Content-Security-Policy": PAGE_RULES, "X-Content-Type-Options": "nosniff"})


@asynccontextmanager
async def watching(watch: Watch) -> AsyncIterator[None]:
    """Look at the workers while the server runs; few threads make tokens of prompts, as each keeps memory."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(TOKENIZERS, "bitnet-jit prompts"))
    task = asyncio.create_task(watch.run())
    yield
    task.cancel()


def make_app(
    engine: "InferenceEngine | Any",
    templates: Mapping[str, ChatTemplate] | None = None,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    stuck_s: float = STUCK_S,
    speculate: Literal["ngram"] | None = None,
) -> FastAPI:
    """Return an app that serves the models of an engine; the caller closes the engine.

    Args:
        engine: the engine, with its models.
        templates: of chats, by the ids of models.
        limits: of requests.
        keys: API keys, of which a request must have one; none: everybody may ask.
        stuck_s: seconds without a step after which a worker with work is stuck: its requests are given up.
        speculate: "ngram" guesses tokens of each text; texts stay the same.
    """
    limits = limits or Limits()
    watch = Watch(engine, stuck_s)
    app = FastAPI(
        title="bitnet-jit",
        version=bitnet_jit.__version__,
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        lifespan=lambda _: watching(watch),
    )
    app.state.service = Service(
        engine, dict(templates or {}), limits, metrics.Metrics(engine), watch, int(time.time()), speculate
    )
    for module in (completions, chat, embeddings, models, tokens, health, metrics):
        app.include_router(module.router)
    app.include_router(router)
    app.add_middleware(Gate, limits=limits, keys=tuple(keys))
    app.add_middleware(metrics.CountedResponses, counter=app.state.service.metrics.responses)
    add_handlers(app)
    return app
