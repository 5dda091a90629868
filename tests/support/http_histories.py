"""Requests for text over HTTP by clients of every patience, and what each must have got."""

import json
import socket
import struct
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException, HTTPResponse

import bitnet_jit
from bitnet_jit.generation.sampling import Sampling

SCRIPTURE = "And it came to pass in those days, that there went out a decree from the king, and all the people " * 3
WAIT = 60  # seconds for what takes milliseconds


@dataclass(frozen=True)
class Ask:
    """A request, and how its client reads: `step` bytes at a time, and no more than `patience` of the body."""

    start: int = 0
    length: int = 9
    limit: int = 20
    n: int = 1
    seed: int = 0
    temperature: float = 0.9
    stop: tuple[str, ...] = ()
    stream: bool = False
    step: int = 65536
    patience: int | None = None
    model: str = "tiny"

    @property
    def prompt(self):
        return SCRIPTURE[self.start : self.start + self.length]

    @property
    def body(self):
        same = {name: getattr(self, name) for name in ("model", "prompt", "n", "seed", "temperature", "stream")}
        return {"max_tokens": self.limit, "stop": list(self.stop) or None, **same}


@dataclass
class Got:
    """What a client has got.

    Attributes:
        status: of the answer; None: the connection was closed before it.
        texts, reasons: by the index of a text; a reason is there as often as it came.
        error: of the answer or the stream, or None.
        retry_after: the header.
        is_whole: whether the answer came to its end.
    """

    status: int | None = None
    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, list[str]] = field(default_factory=dict)
    error: dict[str, str] | None = None
    retry_after: str | None = None
    is_whole: bool = False


@cache
def decoder():
    return bitnet_jit.load()


@cache
def alone(ask):
    """Return the texts of a request by their index, and why each ends, as the decoder writes them alone."""
    texts, reasons = {}, {}
    ids = list(ask.prompt.encode())
    for index in range(ask.n):
        sampling = Sampling(temperature=ask.temperature, seed=ask.seed + index)
        tokens = decoder().generate(ids, ask.limit, sampling=sampling, stop=ask.stop).tolist()[len(ids) :]
        text = decoder().tokenizer.decode([token for token in tokens if token not in decoder().config.eos_ids])
        places = [text.find(stop) for stop in ask.stop if stop in text]
        ended = bool(places) or tokens[-1] in decoder().config.eos_ids
        texts[index] = text[: min(places)] if places else text
        reasons[index] = ["stop" if ended else "length"]
    return texts, reasons


def connect(address, receive_bytes=None):
    """Return a connection, which may have little room for what it has not read."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(WAIT)
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        connection.connect((host, int(port)))
    except OSError:
        connection.close()
        raise
    return connection


def send(connection, body, keep_alive=False):
    """Send a request."""
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += "" if keep_alive else "Connection: close\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)


def reset(connection):
    """Close a connection as a process that dies does: what is on its way is dropped."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def fetch(address, ask):
    """Send a request and read the answer as its client does; return what came."""
    got, content = Got(), b""
    connection = connect(address)
    try:
        send(connection, ask.body)
        if ask.patience == 0:
            return got
        with HTTPResponse(connection) as response:
            response.begin()
            got.status, got.retry_after = response.status, response.headers["Retry-After"]
            while ask.patience is None or len(content) < ask.patience:
                piece = response.read1(ask.step)
                content += piece
                if not piece:
                    got.is_whole = True
                    break
    except (HTTPException, ConnectionError):
        got.is_whole = False
    finally:
        reset(connection)
    note(got, ask, content)
    return got


def note(got, ask, content):
    """Note what the body of an answer says."""
    if got.status != 200:
        got.error = json.loads(content)["error"] if got.is_whole else {"code": ""}
        return
    if not ask.stream:
        answers = [json.loads(content)] if got.is_whole else []
    else:
        events = [event.removeprefix(b"data: ") for event in content.split(b"\n\n")[:-1]]
        got.is_whole = got.is_whole and events[-1:] == [b"[DONE]"]
        answers = [json.loads(event) for event in events if event != b"[DONE]"]
    for answer in answers:
        got.error = answer.get("error", got.error)
        for choice in answer.get("choices", ()):
            got.texts[choice["index"]] = got.texts.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"]:
                got.reasons.setdefault(choice["index"], []).append(choice["finish_reason"])


def check_whole(ask, got):
    """Check that an answer is there, once, and is the one that the request gets alone."""
    assert (got.status, got.error, got.is_whole) == (200, None, True), got
    assert (got.texts, got.reasons) == alone(ask)


def check_part(ask, got):
    """Check that what came of an answer is the beginning of the one that the request gets alone."""
    texts, reasons = alone(ask)
    assert all(texts[index].startswith(text) for index, text in got.texts.items())
    assert all(reasons[index] == reason for index, reason in got.reasons.items())
