"""Thousands of connections, most of which ask for nothing: those that ask are answered in time."""

import re
import select
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from served import wait_until

from bitnet_jit.server.connections import FILES_BESIDE

resource = pytest.importorskip("resource", reason="limits of open files are POSIX's")
WAIT = 30  # seconds for what takes milliseconds
IN_TIME_S = 5.0  # for an answer of 20 ms, on a machine that is busy
MOST_BYTES = 16_384  # of the server's memory per connection
ASKED = {"model": "tiny-bitnet", "prompt": "And it came to pass ", "max_tokens": 5, "temperature": 0}
PATIENT = """
import bitnet_jit
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.server.app import make_app
from bitnet_jit.server.connections import make_server
with InferenceEngine() as engine:
    engine.add_model("tiny-bitnet", bitnet_jit.load())
    make_server(make_app(engine), "127.0.0.1", 0, header_s=300).run()
"""


@contextmanager
def started(limit, *command):
    """Start a server where a shell has set a limit of open files; yield its process and its port."""
    shell = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, *command]
    process = subprocess.Popen(shell, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        lines = (re.search(r"running on http://127.0.0.1:(\d+)", line) for line in process.stderr)
        yield process, int(next(filter(None, lines))[1])
    finally:
        process.kill()
        process.communicate()


@contextmanager
def connections(port, number):
    """Open so many connections; in the end they are reset, so that none lingers in the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(connect(port)) for _ in range(number)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return connection


def ask(port):
    """Ask for a text by a connection of its own; return it, and the seconds that it took."""
    start = time.monotonic()
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=ASKED, timeout=WAIT)
    return answer.json()["choices"][0]["text"], time.monotonic() - start


def ask_many(port, meanwhile=lambda: None):
    """Ask from eight threads; return texts and seconds."""
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, port) for _ in range(24)]
        while not all(one.done() for one in asked):
            meanwhile()
        return [one.result() for one in asked]


def resident(process):
    """Return the resident memory of a process, in bytes."""
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])


def open_files(process):
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def closed(sockets):
    """Return those that the server has closed."""
    poll = select.poll()
    for one in sockets:
        poll.register(one, select.POLLIN)
    return [number for number, _ in poll.poll(0)]


def hard_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and files of another process are read in /proc")
def test_ten_thousand_connections_keep_nobody_out():
    """As many as the hard limit allows: the server raises its own, which begins at 256."""
    number = min(10_000, hard_limit() - 2 * FILES_BESIDE)
    with started("-Sn 256", "-c", PATIENT) as (process, port):
        (text,) = {text for text, _ in ask_many(port)}  # and what the engine takes for them is taken
        memory, files = resident(process), open_files(process)
        with connections(port, number) as sockets:
            loris = sockets[::2]
            for one in loris:
                one.sendall(b"POST /v1/completions HTTP/1.1\r\nX: ")
            wait_until(lambda: open_files(process) >= files + number)
            bytes_each = (resident(process) - memory) / number
            answers = ask_many(port, lambda: [one.sendall(b"x") for one in loris[:: len(loris) // 100]])
            assert {answer[0] for answer in answers} == {text}
            assert max(seconds for _, seconds in answers) < IN_TIME_S
            assert not closed(sockets)
            assert bytes_each < MOST_BYTES, f"{number} connections"
            one = loris[0]  # and it was no more than slow
            one.sendall(b"\r\nContent-Length: 0\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 4")
        wait_until(lambda: open_files(process) <= files)
        assert ask(port)[0] == text


@pytest.mark.parametrize("limit", ["-n 300", "-Sn 200"])
def test_what_the_limit_of_files_has_no_room_for_is_closed_and_the_log_says_so(limit):
    """Only the hard limit counts: `bitnet-jit serve` raises the soft one."""
    number = 250
    with started(limit, "-m", "bitnet_jit", "serve", "--port", "0") as (process, port):
        with connections(port, number) as sockets:
            refused = number - (300 - FILES_BESIDE) if limit == "-n 300" else 0
            wait_until(lambda: len(closed(sockets)) >= refused)
            kept = sockets[0]
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(100).startswith(b"HTTP/1.1 200")
            assert len(closed(sockets[1:])) == refused
        wait_until(lambda: answers(port))
        process.terminate()
        log = process.communicate(timeout=WAIT)[1]
    words = (
        "connections closed at once: 1, as 172 are open, which is as many as the limit of 300 open files leaves room"
    )
    assert log.count(words) == bool(refused)
    assert log.count("closed at once") == bool(refused)
    assert "Traceback" not in log


def answers(port):
    """Return whether the server takes a connection and answers."""
    try:
        return ask(port)[0] == "after"
    except httpx.TransportError:
        return False
