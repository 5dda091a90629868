"""Clients of a soak: each asks again and again, reads a whole answer or a stream, or leaves in the middle of one."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

WHOLE, STREAM, LEFT = "whole", "streamed", "left"
SHARES = {WHOLE: 0.4, STREAM: 0.4, LEFT: 0.2}
SEEDS = 40
OPENINGS = 7  # prompts that begin unlike
REPEATS = (1, 1, 2, 5)
LEAVE_AFTER = 4  # pieces
LEFT_TOKENS = 400


@dataclass
class Tally:
    """What has happened so far.

    Attributes:
        done: answers by kind.
        errors: by kind, in words.
        texts: what was asked -> the text; the same request must get the same text.
        changed: answers that were another text than before.
        latencies: seconds of whole answers.
    """

    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    texts: dict[tuple[object, ...], str] = field(default_factory=dict)
    changed: int = 0
    latencies: list[float] = field(default_factory=list)

    def take(self, kind: str, body: dict[str, object], text: str) -> None:
        """Note an answer."""
        self.done[kind] += 1
        key = (body["prompt"], body["max_tokens"], body["seed"])
        self.changed += self.texts.setdefault(key, text) != text


def draw_request(rng: random.Random, model: str) -> tuple[str, dict[str, object]]:
    """Draw the kind of a request, and its body; few are possible, so that many are asked more than once."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    seed = rng.randrange(SEEDS)
    body: dict[str, object] = {
        "model": model,
        "prompt": f"And it came to pass in the days of king {seed % OPENINGS} " * rng.choice(REPEATS),
        "max_tokens": LEFT_TOKENS if kind == LEFT else 5 + seed,
        "temperature": 0.8,
        "seed": seed,
        "stream": kind != WHOLE,
    }
    return kind, body


async def client(http: httpx.AsyncClient, model: str, seed: int, end: float, tally: Tally) -> None:
    """Ask until a time has come, by time.monotonic(); errors are noted, and the next request follows."""
    rng = random.Random(seed)
    while time.monotonic() < end:
        kind, body = draw_request(rng, model)
        try:
            await ask(http, kind, body, tally)
        except httpx.HTTPStatusError as error:
            tally.errors[f"HTTP {error.response.status_code}"] += 1
        except (httpx.HTTPError, ValueError, KeyError) as error:
            tally.errors[type(error).__name__] += 1
            await asyncio.sleep(0.1)  # a server that is gone is not asked without end


async def ask(http: httpx.AsyncClient, kind: str, body: dict[str, object], tally: Tally) -> None:
    """Send a request, read its answer as its kind says, and note it."""
    start = time.monotonic()
    if kind == WHOLE:
        answer = await http.post("/v1/completions", json=body)
        answer.raise_for_status()
        tally.take(kind, body, answer.json()["choices"][0]["text"])
        tally.latencies.append(time.monotonic() - start)
        return
    pieces: list[str] = []
    async with http.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                tally.take(kind, body, "".join(pieces))
                return
            if line.startswith("data:"):
                pieces.append(json.loads(line[5:])["choices"][0]["text"])
            if kind == LEFT and len(pieces) == LEAVE_AFTER:
                tally.done[kind] += 1
                return
    raise ValueError("the stream ended before its end")
