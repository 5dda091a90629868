"""Connections: no more than this process can hold, and none that waits long for its client.

uvicorn limits how long a connection may be idle between requests, but waits without end for the first one, for the rest
of one that has begun, and for a client that reads nothing of its answer.
"""

import asyncio
import logging
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

HEADER_S = 10.0  # seconds for the head of a request
SEND_S = 60.0  # seconds in which a client must read something of what is sent
FILES_BESIDE = 128  # that the process has open beside connections
MAX_CONNECTIONS = 16384
MAX_AHEAD = 16384  # bytes of next requests that are read while one is answered
BACKLOG = 4096  # connections that wait to be taken in; systems have limits of their own, Linux this one
TELL_S = 10.0  # between lines of the log about connections that are refused


@dataclass
class Refusals:
    """Connections that are closed at once, of which the log tells now and then.

    Args:
        limit: what leaves no room for them, in words.
    """

    limit: str
    _count: int = 0  # since the last line
    _told: float = -math.inf

    def note(self, connections: int) -> None:
        """Note that one was closed beside so many that are open."""
        self._count += 1
        if (now := time.monotonic()) - self._told < TELL_S:
            return
        words = "connections closed at once: %d, as %d are open, which is as many as %s; more are closed, too"
        logger.warning(words, self._count, connections, self.limit)
        self._count, self._told = 0, now


class GuardedProtocol(H11Protocol):
    """A connection that is closed where there are too many, or where its client does not get on.

    The head of a request must come in time, and of an answer some bytes must leave now and then.
    """

    max_connections = MAX_CONNECTIONS
    refusals = Refusals("MAX_CONNECTIONS")
    header_s = HEADER_S
    send_s = SEND_S
    _timer: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take in a connection, or close it at once."""
        is_full = len(self.connections) >= self.max_connections
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that the two methods below hear of every byte that cannot leave
        if is_full:
            self.refusals.note(self.max_connections)
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the time for the head goes on until it is whole."""
        super().data_received(data)
        self._watch()
        self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        self._stop_sending()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Make the app wait, as the client does not read as fast as it writes."""
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        """Let the app write on."""
        self._stop_sending()
        super().resume_writing()

    def _wait_for_client(self) -> None:
        """Wait until the client has read something."""
        left = self.transport.get_write_buffer_size()
        self._sending = self.loop.call_later(self.send_s, self._check_sent, left)

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _check_sent(self, left: int) -> None:
        """Close the connection where as much is left as before: closing it in peace would wait for the client."""
        if self.transport.get_write_buffer_size() < left:
            self._wait_for_client()
        else:
            self._sending = None
            self.transport.abort()

    def _watch(self) -> None:
        """Begin to wait for a head, unless a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_s, self._expire)

    def _listen(self) -> None:
        """Read on where the next request has come before this one is answered: else a client could go unnoticed."""
        has_body = self.cycle is not None and not self.cycle.more_body
        if self.flow.read_paused and has_body and len(self.conn.trailing_data[0]) <= MAX_AHEAD:
            self.flow.resume_reading()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        """Close the connection, whose head has not come in time."""
        self._timer = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def file_limit() -> tuple[int, str]:
    """Return how many connections may be open, and why, in words.

    They are as many as the limit of open files leaves, which is raised as far as the system allows.
    """
    if sys.platform == "win32":
        return MAX_CONNECTIONS, "this server takes"
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + FILES_BESIDE
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        soft = reachable
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS, "this server takes"
    return max(1, soft - FILES_BESIDE), f"the limit of {soft} open files leaves room for (ulimit -n, LimitNOFILE)"


def make_server(
    app: Any,
    host: str,
    port: int,
    log_level: str = "info",
    access_log: bool = False,
    max_connections: int | None = None,
    header_s: float = HEADER_S,
    send_s: float = SEND_S,
) -> uvicorn.Server:
    """Return a server of an app; its `run` ends at a signal, after the requests that it has accepted.

    Args:
        app: an ASGI application.
        host, port: where it listens.
        log_level: of uvicorn.
        access_log: whether each request is a line on stdout.
        max_connections: that may be open at a time; None: as many as this process may have files.
        header_s: seconds for the head of a request.
        send_s: seconds after which a client is given up that has read nothing of what waits for it.
    """
    most, limit = file_limit() if max_connections is None else (max_connections, "max_connections says")
    limits = {"max_connections": most, "refusals": Refusals(limit), "header_s": header_s, "send_s": send_s}
    protocol = type("Protocol", (GuardedProtocol,), limits)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host,
            port,
            backlog=BACKLOG,
            http=protocol,
            ws="none",
            log_level=log_level,
            access_log=access_log,
            server_header=False,
            forwarded_allow_ips=[],
            proxy_headers=False,
        )
    )
