"""Errors as clients see them: a status and OpenAI's form, never a stack trace."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from bitnet_jit.errors import (
    BitNetError,
    EngineClosed,
    InvalidInput,
    ModelNotFound,
    OutOfMemory,
    QueueFull,
    RequestCancelled,
    RequestTimeout,
)
from bitnet_jit.generation.unicode import well_formed
from bitnet_jit.server.answers import ErrorDetails, ErrorResponse

logger = logging.getLogger(__name__)

RETRY_AFTER = "1"  # seconds
CLIENT_GONE = 499  # nginx's number; nobody reads the answer
STATUS: tuple[tuple[type[BitNetError], int, str], ...] = (  # the first that fits; code of the error
    (ModelNotFound, 404, "model_not_found"),
    (QueueFull, 429, "queue_full"),
    (EngineClosed, 503, "engine_closed"),
    (RequestTimeout, 504, "timeout"),
    (RequestCancelled, CLIENT_GONE, "cancelled"),
    (OutOfMemory, 503, "out_of_memory"),
    (InvalidInput, 400, "invalid_value"),
)
TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
NAMES = {  # ours -> OpenAI's
    "model_id": "model",
    "max_new_tokens": "max_tokens",
    "input_ids": "prompt",
    "banned_token_ids": "logit_bias",
    "grammar": "response_format",
    "schema": "response_format",
}
ARGUMENT = re.compile(r"([a-z_]+): ")
MAX_ERRORS = 8  # named in one message


def details(message: str, status: int, param: str | None = None, code: str | None = None) -> ErrorResponse:
    """Return an error in OpenAI's form."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorResponse(error=ErrorDetails(message=well_formed(message), type=kind, param=param, code=code))


def error_response(
    message: str,
    status: int,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an answer that is an error."""
    retry = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    body = details(message, status, param, code).model_dump_json()
    return Response(body, status, {**retry, **(headers or {})}, media_type="application/json")


def described(error: Exception) -> tuple[int, ErrorResponse]:
    """Return the status of an error of the package or of any other, and its form."""
    for kind, status, code in STATUS:
        if isinstance(error, kind):
            message, param = renamed(str(error))
            return status, details(message, status, param if status in (400, 404) else None, code)
    if isinstance(error, BitNetError):
        logger.error("a request has failed: %s", error)
        return 500, details(str(error), 500, code="request_failed")
    logger.error("a request has failed", exc_info=error)
    return 500, details("an error inside the server; its log says which", 500, code="internal_error")


def renamed(message: str) -> tuple[str, str | None]:
    """Return a message with the client's name of the argument that it begins with, and that name.

    >>> renamed("max_new_tokens: expected 1 to 9, got 0")
    ('max_tokens: expected 1 to 9, got 0', 'max_tokens')
    """
    match = ARGUMENT.match(message)
    if match is None:
        return message, None
    name = NAMES.get(match[1], match[1])
    return f"{name}: {message[match.end() :]}", name


async def answer_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Answer with an error of the package, or with one that nobody expected."""
    status, form = described(error)
    return error_response(form.error.message, status, form.error.param, form.error.code)


async def answer_http(request: Request, error: Any) -> Response:  # noqa: ARG001
    """Answer with an error of the HTTP layer: no such page, no such method, a body that is no JSON."""
    return error_response(str(error.detail), error.status_code, headers=error.headers)


async def answer_invalid(request: Request, error: Any) -> Response:  # noqa: ARG001
    """Answer with the fields of a body that are wrong."""
    places = [(".".join(map(str, part["loc"][1:])), part) for part in error.errors()[:MAX_ERRORS]]
    words = [f"{place or 'body'}: {wording(part)}" for place, part in places]
    return error_response("; ".join(words), 400, str(places[0][1]["loc"][1:2][0]) if places[0][0] else None)


def wording(part: Mapping[str, Any]) -> str:
    """Return what is wrong with a field."""
    if part["type"] == "extra_forbidden":
        return "this field is unknown or not supported here"
    if part["type"] == "json_invalid":
        return f"expected JSON ({part['ctx']['error']})"
    return str(part["msg"])


def add_handlers(app: FastAPI) -> None:
    """Make an app answer all errors in OpenAI's form."""
    app.add_exception_handler(BitNetError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_error)
