"""GET /metrics in Prometheus' form: what the engine tells, and what was served."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitnet_jit.engine.text.generation import Completion

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

GAUGES = {  # field of the engine's stats -> name, words
    "waiting": ("waiting_requests", "Requests in the queue."),
    "running": ("running_requests", "Texts that are being written: the size of the batch."),
    "pages": ("pages", "Pages of keys and values."),
    "pages_used": ("pages_used", "Pages that are not free."),
    "pages_kept": ("pages_kept", "Pages kept for prompts that begin alike."),
    "alive": ("worker_alive", "1 where the worker lives."),
}
COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts."),
    "new_tokens": ("new_tokens", "Tokens written."),
    "prefix_asked_tokens": ("prefix_asked_tokens", "Tokens of prompts that the cache of prefixes was asked for."),
    "prefix_hit_tokens": ("prefix_hit_tokens", "Tokens of prompts that the cache of prefixes had."),
    "steps": ("steps", "Steps of the model."),
    "preemptions": ("preemptions", "How often a text lost its pages to another."),
    "guessed": ("guessed_tokens", "Tokens that were guessed."),
    "accepted": ("accepted_tokens", "Guessed tokens that were right."),
    "finished": ("finished_requests", "Texts that ended as asked."),
    "failed": ("failed_requests", "Texts that failed or were cancelled."),
    "restarts": ("restarts", "How often a process of a worker was started anew."),
}
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
router = APIRouter()


class EngineCollector(Collector):
    """The engine's numbers, read when somebody asks.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: "InferenceEngine | Any") -> None:
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield a family per number, a sample per model."""
        models = self._engine.stats()
        for table, kind in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
            for field, (name, words) in table.items():
                family = kind(f"bitnet_jit_{name}", words, labels=["model"])
                for model_id, stats in models.items():
                    family.add_metric([model_id], float(getattr(stats, field)))
                yield family


class Metrics:
    """What was served.

    Args:
        engine: whose numbers are told, too.

    Attributes:
        registry: of all numbers.
        responses: answers by route and status.
    """

    def __init__(self, engine: "InferenceEngine | Any") -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        ProcessCollector(registry=self.registry)
        self._texts = Counter(
            "texts", "Texts that were written to their ends.", ["model", "reason"], "bitnet_jit", registry=self.registry
        )
        self.responses = Counter(
            "http_responses", "Answers.", ["route", "status"], "bitnet_jit", registry=self.registry
        )
        self._first = self._histogram("time_to_first_token_seconds", "From a request to its first token.")
        self._token = self._histogram("time_per_token_seconds", "Per token behind the first.")
        self._seconds = self._histogram("request_seconds", "From a request to its last token.")
        self._prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._new = self._histogram("request_new_tokens", "Tokens of a text.", TOKENS)

    def _histogram(self, name: str, words: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        """Return a histogram by models."""
        return Histogram(name, words, ["model"], "bitnet_jit", registry=self.registry, buckets=buckets)

    def note(self, model_id: str, completions: Sequence[Completion]) -> None:
        """Count texts that have ended."""
        for text in completions:
            self._texts.labels(model_id, text.finish_reason).inc()
            self._first.labels(model_id).observe(text.first_token_s)
            self._seconds.labels(model_id).observe(text.seconds)
            self._prompt.labels(model_id).observe(text.prompt_tokens)
            self._new.labels(model_id).observe(len(text.tokens))
            if len(text.tokens) > 1:
                per_token = (text.seconds - text.first_token_s) / (len(text.tokens) - 1)
                self._token.labels(model_id).observe(per_token)


class CountedResponses:
    """Middleware that counts answers.

    Args:
        app: what lies behind.
        counter: by route and status.
    """

    def __init__(self, app: ASGIApp, counter: Counter) -> None:
        self._app, self._counter = app, counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")  # paths as clients write them are without number
                self._counter.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return all numbers."""
    registry = request.app.state.service.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
