"""Limits, keys, clients that vanish, and a shutdown: what was accepted ends as asked, and nobody else is affected."""

import asyncio
import socket
import threading
import time

import httpx
import openai
import pytest

from bitnet_jit.engine import InferenceEngine
from bitnet_jit.errors import InvalidInput
from bitnet_jit.server.app import make_app
from bitnet_jit.server.connections import file_limit, make_server
from bitnet_jit.server.limits import Limits

WAIT = 30  # seconds for what takes milliseconds
LONG = {"model": "tiny", "prompt": "A", "max_tokens": 1000, "seed": 1}
SHORT = {"model": "tiny", "prompt": "A", "max_tokens": 2, "seed": 1}


def wait_until(condition):
    """Wait for a condition that comes true soon."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def post(address, body, path="/v1/completions", **options):
    return httpx.post(f"{address}{path}", json=body, timeout=WAIT, **options)


def error_of(response, status):
    assert response.status_code == status, response.text
    return response.json()["error"]


@pytest.fixture
def idle(shared):
    """Return the shared server's address and a reader of its engine's numbers, once the engine has nothing to do."""
    address, engine = shared
    wait_until(lambda: not engine.stats()["tiny"].running)
    return address, lambda: engine.stats()["tiny"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_ends_its_texts(idle, path, stream):
    address, stats = idle
    body = {**LONG, "stream": stream, "n": 3}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    before = stats()
    host, port = address.removeprefix("http://").split(":")
    content = httpx.Request("POST", f"{address}{path}", json=body).content
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_until(lambda: stats().running == 3)
    wait_until(lambda: not stats().running)
    after = stats()
    assert after.failed - before.failed == 3
    assert after.new_tokens - before.new_tokens < 3 * 1000
    assert after.pages_used == after.pages_kept


def test_a_stream_that_is_closed_ends_its_text(idle, client):
    _, stats = idle
    failed = stats().failed
    with client.completions.create(**LONG, stream=True) as stream:
        next(iter(stream))
    wait_until(lambda: stats().failed == failed + 1)


def test_api_keys(serve):
    address, _ = serve(keys=["first", "zwölf"])
    for key, status in (("first", 200), ("zwölf", 200), ("firs", 401), ("first2", 401), ("-", 401)):
        headers = {"Authorization": f"Bearer {key}".encode()}
        assert post(address, SHORT, headers=headers).status_code == status
        assert httpx.get(f"{address}/metrics", headers=headers).status_code == status
    assert post(address, SHORT, headers={"Authorization": "Basic first"}).status_code == 401
    error = error_of(post(address, SHORT), 401)
    assert error["code"] == "invalid_api_key"
    assert httpx.get(f"{address}/health").status_code == 200
    assert httpx.get(f"{address}/").status_code == 200
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_bodies_are_limited(serve):
    address, _ = serve(limits=Limits(body_bytes=200))
    large = {**SHORT, "user": "u" * 200}
    assert "200 bytes" in error_of(post(address, large), 413)["message"]

    def parts():
        for _ in range(50):
            yield b" " * 50

    response = httpx.post(f"{address}/v1/completions", content=parts(), headers={"Content-Type": "application/json"})
    assert "200 bytes" in error_of(response, 413)["message"]
    assert post(address, SHORT).status_code == 200


def test_a_body_must_come_in_time(serve):
    address, _ = serve(limits=Limits(body_s=0.2))
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        connection.sendall(head.encode())
        assert b" 408 " in connection.recv(4096)
    assert post(address, SHORT).status_code == 200


def test_prompts_are_limited(serve):
    address, _ = serve(limits=Limits(prompt_tokens=5, texts=4))
    assert post(address, {**SHORT, "prompt": "12345"}).status_code == 200
    assert error_of(post(address, {**SHORT, "prompt": "123456"}), 400)["param"] == "prompt"
    assert post(address, {**SHORT, "prompt": ["a", "b"], "n": 2}).status_code == 200
    assert "at most 4" in error_of(post(address, {**SHORT, "prompt": ["a", "b"], "n": 3}), 400)["message"]


def test_open_requests_are_limited(serve):
    address, engine = serve(limits=Limits(open_requests=1))
    with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}, timeout=WAIT) as stream:
        pieces = stream.iter_bytes()  # a stream whose iterator is gone is closed
        next(pieces)
        response = post(address, SHORT)
        assert error_of(response, 429)["code"] == "too_many_requests"
        assert int(response.headers["Retry-After"]) >= 1
        assert httpx.get(f"{address}/health").status_code == 200
    wait_until(lambda: not engine.stats()["tiny"].running)
    wait_until(lambda: post(address, SHORT).status_code == 200)


def test_a_full_queue_answers_429_and_leaves_nothing_behind(serve):
    address, engine = serve(config={"max_running": 1, "max_waiting": 2})
    with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}, timeout=WAIT) as stream:
        pieces = stream.iter_bytes()  # a stream whose iterator is gone is closed
        next(pieces)
        response = post(address, {**SHORT, "n": 4})  # two of them are taken before the third is refused
        assert error_of(response, 429)["code"] == "queue_full"
        wait_until(lambda: not engine.stats()["tiny"].waiting)
        assert engine.stats()["tiny"].running == 1
    wait_until(lambda: not engine.stats()["tiny"].running)
    assert post(address, SHORT).status_code == 200


def test_a_deadline_answers_504_or_the_last_event(serve):
    address, _ = serve(limits=Limits(request_s=0.05))
    assert error_of(post(address, LONG), 504)["code"] == "timeout"
    with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}, timeout=WAIT) as stream:
        events = "".join(stream.iter_text()).strip().split("\n\n")
    assert "timeout" in events[-1]
    assert "[DONE]" not in events[-1]
    with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        stream = client.completions.create(**LONG, stream=True)
        with pytest.raises(openai.APIError, match="timeout_s"):
            list(stream)


def test_a_shutdown_finishes_what_was_accepted(tiny):
    with InferenceEngine() as engine:
        engine.add_model("tiny", tiny)
        server = make_server(make_app(engine), "127.0.0.1", 0, "critical")
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_until(lambda: server.started)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        body = {**LONG, "max_tokens": 300}

        async def ask():
            async with httpx.AsyncClient(timeout=WAIT) as client:
                asked = [asyncio.create_task(client.post(f"{address}/v1/completions", json=body)) for _ in range(3)]
                while engine.stats()["tiny"].running < 3:
                    await asyncio.sleep(0.001)
                server.should_exit = True
                return await asyncio.gather(*asked)

        answers = asyncio.run(ask())
        thread.join(WAIT)
        assert not thread.is_alive()
        assert [answer.status_code for answer in answers] == [200] * 3
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


@pytest.mark.parametrize(
    "options",
    [{"body_bytes": 0}, {"body_s": -1}, {"body_s": None}, {"open_requests": 0}, {"prompt_tokens": 0}, {"request_s": 0}],
)
def test_limits_are_checked(options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        Limits(**options)


def connect(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


@pytest.mark.parametrize("sent", [b"", b"GET /he"])
def test_a_head_must_come_in_time(serve, sent):
    """Also the head of a second request; a byte now and then does not help."""
    address, _ = serve(connections={"header_s": 0.3})
    with connect(address) as first, connect(address) as second:
        second.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in read_answer(second)
        start = time.monotonic()
        for connection in (first, second):
            connection.sendall(sent)
        time.sleep(0.2)
        first.sendall(b"G")
        assert first.recv(100) == b""
        assert 0.2 < time.monotonic() - start < 5
        if sent:
            assert second.recv(100) == b""


def read_answer(connection):
    """Read an answer of /health, whose head and body may come apart."""
    text = b""
    while not text.endswith(b"}}"):
        text += connection.recv(4096)
    return text


def test_a_stream_may_take_longer_than_a_head(serve):
    address, _ = serve(connections={"header_s": 0.1})
    with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}, timeout=WAIT) as stream:
        start = time.monotonic()
        text = "".join(stream.iter_text())
    assert time.monotonic() - start > 0.1
    assert text.endswith("data: [DONE]\n\n")


def test_connections_are_limited(serve):
    address, _ = serve(connections={"max_connections": 3})
    connections = [connect(address) for _ in range(3)]
    try:
        wait_until(lambda: refuses(address))
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: not refuses(address))


def refuses(address):
    """Return whether a connection is closed without an answer."""
    try:
        return httpx.get(f"{address}/health", timeout=WAIT).status_code != 200
    except httpx.TransportError:
        return True


def test_two_thousand_idle_connections_keep_nobody_out(serve):
    address, _ = serve(connections={"header_s": 2.0})
    most, _ = file_limit()
    assert most >= 100
    connections = [connect(address) for _ in range(min(2000, most // 2 - 50))]  # both ends are in this process
    try:
        assert post(address, SHORT).status_code == 200
        assert connections[-1].recv(10) == b"", "they are closed in the end"
    finally:
        for connection in connections:
            connection.close()
