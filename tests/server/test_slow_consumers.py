"""Clients that read slowly get all; those that read nothing keep nothing, and hold up nobody."""

import asyncio
import json
import socket
import time
from contextlib import contextmanager
from http.client import HTTPResponse, IncompleteRead

import pytest
from http_histories import Ask, check_whole, connect, decoder, fetch, reset, send
from hypothesis import given, settings
from hypothesis import strategies as st
from served import running, wait_until

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.server.app import make_app

BUFFER = 4096  # bytes that each side's system takes, or a few times as many
LARGE = {"model": "tiny", "prompt": "And ", "max_tokens": 300, "n": 4, "seed": 1, "logprobs": 20}  # a megabyte


@contextmanager
def serving(send_s):
    """Run a server whose system keeps few bytes for clients; yield its address, itself and its engine."""
    with InferenceEngine(EngineConfig()) as engine:
        engine.add_model("tiny", decoder())
        with running(make_app(engine), send_s=send_s) as (address, server):
            server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            yield address, server, engine


def stats_of(engine):
    return engine.stats()["tiny"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_reads_nothing_is_given_up_and_keeps_nothing(stream):
    with serving(0.5) as (address, server, engine):
        connection = connect(address, BUFFER)
        send(connection, {**LARGE, "stream": stream})
        wait_until(lambda: stats_of(engine).running)
        wait_until(lambda: not server.server_state.connections)
        wait_until(lambda: not server.server_state.tasks)
        wait_until(lambda: not (stats_of(engine).running or stats_of(engine).waiting))
        assert stats_of(engine).pages_used == stats_of(engine).pages_kept
        with HTTPResponse(connection) as response:
            response.begin()
            with pytest.raises((ConnectionError, IncompleteRead)):
                response.read()
        reset(connection)
        check_whole(Ask(), fetch(address, Ask()))


@pytest.mark.parametrize("stream", [True, False])
def test_a_shutdown_waits_for_no_client_that_reads_nothing(stream):
    with serving(0.5) as (address, server, engine):
        connection = connect(address, BUFFER)
        send(connection, {**LARGE, "max_tokens": 100, "stream": stream})
        wait_until(lambda: stats_of(engine).running)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    reset(connection)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_reads_slowly_gets_all(stream):
    """It takes several times as long as a client may read nothing."""
    with serving(0.3) as (address, _, _):
        ask = Ask(limit=200, n=4, stream=stream)
        connection = connect(address, BUFFER)
        send(connection, {**ask.body, "logprobs": 20})
        with HTTPResponse(connection) as response:
            begin, content = time.monotonic(), b""
            response.begin()
            while piece := response.read1(8192):
                content += piece
                time.sleep(0.002 if stream else 0.01)  # a piece of a stream is an event
        assert time.monotonic() - begin > 0.6
        reset(connection)
        if stream:
            assert content.endswith(b"data: [DONE]\n\n")
        else:
            assert len(json.loads(content)["choices"]) == 4


@settings(max_examples=12)
@given(
    pieces=st.lists(st.integers(0, 200_000), max_size=4),
    reads=st.sampled_from(["all", "part", "nothing"]),
    keep_alive=st.booleans(),
)
def test_no_connection_stays(pieces, reads, keep_alive):
    """However an answer is cut, and whatever its client reads of it."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for size in pieces:
            await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        await send({"type": "http.response.body"})

    with running(app, send_s=0.1) as (address, server):
        server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        connection = connect(address, BUFFER)
        closing = b"" if keep_alive else b"Connection: close\r\n"
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
        if reads != "nothing":
            with HTTPResponse(connection) as response:
                response.begin()
                wanted = sum(pieces) if reads == "all" else sum(pieces) // 2
                assert len(response.read(wanted)) == wanted
    assert not server.server_state.connections
    assert not server.server_state.tasks
    reset(connection)


async def lifespan(receive, send):
    """Begin and end with the server."""
    for name in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{name}.complete"})
        await asyncio.sleep(0)
