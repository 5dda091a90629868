"""One request: a streamed completion by httpx, and when each of its pieces came."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.suites.load.plan import Planned

EVENT, DONE = "data:", "[DONE]"


@dataclass(frozen=True)
class Endpoint:
    """What is asked.

    Attributes:
        path: of the route, such as /v1/completions.
        model: its name there.
        temperature: 0 takes the likeliest tokens.
        banned: token ids that no text may have: with the end token among them, texts are as long as they were asked.
        extra: further fields of the body, such as {"ignore_eos": True} for servers that know it.
    """

    path: str
    model: str
    temperature: float = 0.0
    banned: Sequence[int] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, planned: Planned) -> dict[str, Any]:
        """Return the body of a request."""
        body = {
            "model": self.model,
            "prompt": list(planned.prompt),
            "max_tokens": planned.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        bias = {"logit_bias": {str(token): -100 for token in self.banned}} if self.banned else {}
        return body | bias | self.extra


@dataclass(frozen=True)
class Outcome:
    """What became of a request; times are seconds from the beginning of the load.

    Attributes:
        planned: the request.
        due_s: when it came, by the plan or because a client was free.
        pieces_s: when pieces of the text came.
        prompt_tokens, new_tokens, cached_tokens: as the server counts them.
        text: the new text.
        error: None, or the kind of error in a few words.
    """

    planned: Planned
    due_s: float
    pieces_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    text: str = ""
    error: str | None = None


async def ask(http: httpx.AsyncClient, endpoint: Endpoint, planned: Planned, begin: float, due_s: float) -> Outcome:
    """Send a request and read its answer to the end; errors become words.

    Args:
        http: a client whose base is the server.
        endpoint, planned: what is asked.
        begin: of the load, by time.perf_counter().
        due_s: seconds after it.
    """
    reader = Reader(begin)
    try:
        async with http.stream("POST", endpoint.path, json=endpoint.body(planned)) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                return Outcome(planned, due_s, error=f"HTTP {response.status_code}")
            async for line in response.aiter_lines():
                if line.startswith(EVENT):
                    reader.take(line[len(EVENT) :].strip())
    except httpx.TimeoutException:
        reader.error = "timeout"
    except httpx.ConnectError:
        reader.error = "no connection"
    except (httpx.HTTPError, ValueError) as error:
        reader.error = type(error).__name__
    return reader.outcome(planned, due_s)


class Reader:
    """What a stream has told so far."""

    def __init__(self, begin: float) -> None:
        self.begin, self.pieces, self.texts, self.usage = begin, [], [], {}
        self.is_done, self.error = False, None

    def take(self, data: str) -> None:
        """Take in the data of one event."""
        now = time.perf_counter() - self.begin
        if data == DONE:
            self.is_done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = f"in the stream: {event['error'].get('code') or event['error'].get('type')}"
        self.usage = event.get("usage") or self.usage
        if event.get("choices"):
            self.texts.append(event["choices"][0].get("text") or "")
            if self.texts[-1] or event["choices"][0].get("finish_reason") is None:
                self.pieces.append(now)

    def outcome(self, planned: Planned, due_s: float) -> Outcome:
        """Return what became of the request."""
        error = self.error or (None if self.is_done else "ended early")
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        counts = (self.usage.get("prompt_tokens", 0), self.usage.get("completion_tokens", len(self.pieces)), cached)
        return Outcome(planned, due_s, tuple(self.pieces), *counts, "".join(self.texts), error)
