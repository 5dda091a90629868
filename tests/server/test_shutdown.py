"""A signal to `bitnet-jit serve` under load: what it accepted is finished, what comes later is refused, and it ends."""

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from http_histories import WAIT, Ask, check_part, check_whole, connect, fetch, reset
from served import wait_until

CLIENTS = 24
WAITING = [b"", b"POST /v1/completions HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"]  # connections without a request


@pytest.fixture
def server():
    """Start a server that writes few texts at a time; yield its process and address."""
    command = [sys.executable, "-m", "bitnet_jit", "serve", "--port", "0", "--max-running", "6"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        for line in process.stderr:
            if match := re.search(r"running on (http://\S+)", line):
                yield process, match[1]
                break
        else:
            pytest.fail("it has ended")
    finally:
        process.kill()
        process.communicate()


def ask_of(number):
    """Return requests of all kinds: streamed and whole, short and long, of clients that stay and that vanish."""
    patience = 200 if number % 10 == 9 else None
    return Ask(
        start=number % 3,
        length=1 + 13 * number % 150,
        limit=20 + 37 * number % 200,
        n=1 + number % 2,
        seed=number,
        stop=("the",) if number % 4 == 3 else (),
        stream=number % 3 > 0,
        step=1 if number % 5 == 4 else 65536,
        patience=patience,
        model="tiny-bitnet",
    )


def metric(address, name):
    """Return a number of the server's."""
    text = httpx.get(f"{address}/metrics", timeout=WAIT).text
    return float(re.search(rf"^bitnet_jit_{name}{{.*}} (\S+)$", text, re.M)[1])


@pytest.mark.parametrize("signals", [1, 2])
def test_what_was_accepted_is_finished_and_what_comes_later_is_refused(server, signals):
    """Also where the signal comes twice."""
    process, address = server
    asks = [ask_of(number) for number in range(CLIENTS)]
    idle = [connect(address) for _ in WAITING]
    for connection, sent in zip(idle, WAITING, strict=True):
        connection.sendall(sent)
    with ThreadPoolExecutor(2 * CLIENTS) as clients:
        answers = [clients.submit(fetch, address, ask) for ask in asks]
        texts = sum(ask.n for ask in asks)
        wait_until(lambda: accepted(address) > texts)  # it has written one to get ready
        assert metric(address, "waiting_requests") > 0, "they do not fit into a batch"
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        late = [clients.submit(ask_until_refused, address) for _ in range(4)]
        got = [answer.result(WAIT) for answer in answers]
        for client in late:
            client.result(WAIT)
    assert process.wait(WAIT) == 0
    for ask, answer in zip(asks, got, strict=True):
        (check_whole if ask.patience is None else check_part)(ask, answer)
    for connection in idle:
        assert connection.recv(100) == b""
        reset(connection)
    assert "Traceback" not in process.stderr.read()


def accepted(address):
    """Return how many texts the engine has taken."""
    names = ("waiting_requests", "running_requests", "finished_requests_total", "failed_requests_total")
    return sum(metric(address, name) for name in names)


def ask_until_refused(address):
    """Ask again and again; each answer is whole, until a connection is refused or closed without one."""
    ask = Ask(limit=3, model="tiny-bitnet")
    while True:
        try:
            got = fetch(address, ask)
        except ConnectionError:
            return
        if got.status is None:
            return
        check_whole(ask, got)
        time.sleep(0.02)
