"""Server-sent events, and texts of several generations as they come."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from bitnet_jit.engine.text.generation import Completion, Generation, Piece
from bitnet_jit.errors import RequestCancelled
from bitnet_jit.server.errors import described

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}  # for the description
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies pass each event on at once


async def merged(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Piece | None], None]:
    """Yield the pieces of several texts as they come.

    Yields:
        The number of a text and its next piece; None where it has ended.

    Raises:
        BitNetError: one has failed. The others are cancelled then, and also where nobody reads on.
    """
    arrived: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(pump(arrived, index, item)) for index, item in enumerate(generations)]
    running = set(range(len(tasks)))
    try:
        while running:
            index, piece = await arrived.get()
            if piece is None:
                await tasks[index]  # raises its error
                running.discard(index)
            yield index, piece
    finally:
        for index in running:
            generations[index].cancel()
            tasks[index].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(arrived: "asyncio.Queue[tuple[int, Piece | None]]", index: int, generation: Generation) -> None:
    """Put the pieces of a text into a queue as they come, and its end."""
    try:
        async for piece in generation:
            arrived.put_nowait((index, piece))
    finally:
        arrived.put_nowait((index, None))


async def events(chunks: AsyncGenerator[Any, None]) -> AsyncGenerator[bytes, None]:
    """Yield chunks as events; an error becomes the last one."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield event(chunk)
    except Exception as error:  # the answer has begun, so its status is sent: a word, not a connection that breaks
        yield event(described(error)[1])
        return
    yield DONE


def event(content: BaseModel) -> bytes:
    """Return one event; fields that nobody has set are left out."""
    return b"data: " + content.model_dump_json(exclude_unset=True).encode() + b"\n\n"


class EventStream(StreamingResponse):
    """An answer that is a stream of chunks. Where the client goes, its texts end.

    Args:
        chunks: Pydantic models.
        generations: what they are made of.
    """

    def __init__(self, chunks: AsyncGenerator[Any, None], generations: Sequence[Generation]) -> None:
        self._events, self._generations = events(chunks), generations
        super().__init__(self._events, media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            for generation in self._generations:
                generation.cancel()


async def completed(generations: Sequence[Generation], request: Request) -> list[Completion]:
    """Wait for all texts; where one fails or the client goes, the others are cancelled.

    Raises:
        BitNetError: one has failed.
        RequestCancelled: the client has gone.
    """
    return await unless_gone(all_of(generations), request)


async def unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T:
    """Return the result of some work, which is cancelled where the client goes. Raises RequestCancelled then."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestCancelled("the client has gone")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def all_of(generations: Sequence[Generation]) -> list[Completion]:
    """Wait for all texts; where one fails, or nobody waits any more, all are cancelled."""
    try:
        return await asyncio.gather(*map(whole, generations))
    except BaseException:
        for generation in generations:
            generation.cancel()
        raise


async def whole(generation: Generation) -> Completion:
    """Wait for a text."""
    return await generation


async def disconnected(request: Request) -> None:
    """Wait until the client has gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
