"""The gate before all routes: keys, sizes of bodies, how long they may take, how many requests may be open."""

import asyncio
import hmac
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.server.errors import error_response

OPEN_PATHS = ("/", "/health")  # without a key


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: of a request.
        body_s: seconds in which a body must have come.
        open_requests: POST requests that may be open at a time.
        prompt_tokens: of a prompt; None: what the model's context takes.
        texts: prompts of a request, times `n`.
        request_s: seconds that a text may take, None without a limit.

    Raises:
        InvalidInput: a value is out of range.
    """

    body_bytes: int = 4 * 2**20
    body_s: float = 30.0
    open_requests: int = 1024
    prompt_tokens: int | None = None
    texts: int = 128
    request_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("body_bytes", "open_requests", "texts"):
            whole_number(name, getattr(self, name))
        if self.prompt_tokens is not None:
            whole_number("prompt_tokens", self.prompt_tokens, none=True)
        for name in ("body_s", "request_s"):
            value = getattr(self, name)
            number = as_real(value)
            if (value is not None or name == "body_s") and (number is None or not number > 0):
                raise InvalidInput(f"{name}: expected a number above 0, got {show(value)}")


class Body:
    """The body of one request as it comes, up to a size and a time.

    Args:
        receive: gives the next message.
        limits: of the server.
    """

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._size, self._is_whole = 0, False
        self._deadline = asyncio.get_running_loop().time() + limits.body_s

    async def receive(self) -> Message:
        """Return the next message; HTTPException where the body is too large or too slow."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body has not come within {self._limits.body_s} s") from None
        self._size += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._size > self._limits.body_bytes:
            raise HTTPException(413, f"expected a body of at most {self._limits.body_bytes} bytes")
        return message


class Gate:
    """Middleware that refuses what may not come in.

    Args:
        app: what lies behind.
        limits: of the server.
        keys: API keys, of which requests must have one; none: everybody may come in.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: tuple[str, ...] = ()) -> None:
        self._app, self._limits = app, limits
        self._keys = [key.encode() for key in keys]
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._is_allowed(scope):
            headers = {"WWW-Authenticate": "Bearer"}
            words = "expected an API key of this server: Authorization: Bearer KEY"
            await error_response(words, 401, None, "invalid_api_key", headers)(scope, receive, send)
        elif (size := declared_size(scope)) > self._limits.body_bytes:
            words = f"expected a body of at most {self._limits.body_bytes} bytes, got {size}"
            await error_response(words, 413)(scope, receive, send)
        elif scope["method"] == "POST":
            await self._count(scope, receive, send)
        else:
            await self._app(scope, Body(receive, self._limits).receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in unless too many are open."""
        if self._open >= self._limits.open_requests:
            words = f"{self._open} requests are open, and no more may be; try again later"
            await error_response(words, 429, None, "too_many_requests")(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, Body(receive, self._limits).receive, send)
        finally:
            self._open -= 1

    def _is_allowed(self, scope: Scope) -> bool:
        """Return whether a request has a key, or needs none; each key takes the same time."""
        if not self._keys or scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


def declared_size(scope: Scope) -> int:
    """Return the length of a body as its header says, 0 where it says nothing."""
    value = dict(scope["headers"]).get(b"content-length", b"")
    return int(value) if value.isdigit() and len(value) < 20 else 0
