"""Histories of faults before a server of two replicas: each answer comes once, and is the one that it is alone."""

import json
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from unittest import mock

import httpx
import pytest
from faulty_runner import MOMENTS, NO_MEMORY, FaultyRunner
from http_histories import WAIT, Ask, Got, alone, check_part, check_whole, connect, decoder, fetch, reset, send
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from served import running, wait_until

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.server.app import make_app
from bitnet_jit.server.limits import Limits

MAX_ASKS = 24  # of one history
ASKS = st.builds(
    Ask,
    start=st.integers(0, 2),
    length=st.sampled_from([1, 9, 63, 64, 65, 150, 200]),
    limit=st.integers(1, 60),
    n=st.sampled_from([1, 1, 2, 3]),
    seed=st.integers(0, 3),
    temperature=st.sampled_from([0, 0.9]),
    stop=st.sampled_from([(), (), ("the",), (" a", "x"), ("days, that", "e ki")]),
    stream=st.booleans(),
    step=st.sampled_from([1, 7, 65536]),
    patience=st.sampled_from([None] * 4 + [0, 1, 300]),
)


def leaks():
    """Return what a process has too much of when something leaks: its open files and its threads."""
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return files, threading.active_count()


class Faults(RuleBasedStateMachine):
    """Clients of every kind, devices that fail, memory that is short, and a wall clock that jumps."""

    def __init__(self):
        super().__init__()
        decoder().generate([65], 1)  # threads of kernels are there from now on
        self.before = leaks()
        self.stack, self.answers = ExitStack(), []
        self.whole, self.short, self.shift = 2, 0, 0.0
        now = time.time
        self.stack.enter_context(mock.patch("time.time", side_effect=lambda: now() + self.shift))

    @initialize(
        waiting=st.sampled_from([3, 100]),
        pages=st.sampled_from([5, 12]),
        open_requests=st.sampled_from([4, 100]),
        request_s=st.sampled_from([None, None, 0.02, 0.2]),
    )
    def start(self, waiting, pages, open_requests, request_s):
        config = EngineConfig(num_pages=pages, max_running=3, step_tokens=50, max_waiting=waiting)
        self.limits = Limits(open_requests=open_requests, request_s=request_s)
        self.engine = InferenceEngine(config)
        self.stack.callback(self.engine.close, abandon=True)
        self.group = self.engine.add_model("tiny", decoder(), replicas=[decoder()]).replica
        self.runners = [FaultyRunner(replica) for replica in self.group.members]
        app = make_app(self.engine, limits=self.limits)
        self.address, self.server = self.stack.enter_context(running(app))
        self.clients = self.stack.enter_context(ThreadPoolExecutor(MAX_ASKS))

    @rule(asks=st.lists(ASKS, min_size=1, max_size=6))
    @precondition(lambda self: len(self.answers) + 6 <= MAX_ASKS)
    def ask(self, asks):
        self.answers += [(ask, self.clients.submit(fetch, self.address, ask)) for ask in asks]

    @rule(moment=st.sampled_from(MOMENTS), kind=st.sampled_from(["device", "killed"]), step=st.integers(0, 9))
    @precondition(lambda self: self.whole > 1)
    def break_device(self, moment, kind, step):
        self.whole -= 1
        armed = self.runners[self.whole].armed
        armed.extend([(None, None)] * (step - len(armed)))
        armed.append((moment, kind))

    @rule(number=st.integers(0, 1), moment=st.sampled_from(MOMENTS))
    @precondition(lambda self: self.short < 3)  # one step of one token may meet all of them
    def run_short_of_memory(self, number, moment):
        self.short += 1
        self.runners[number].armed.appendleft((moment, NO_MEMORY))

    @rule(seconds=st.sampled_from([-1e9, -3600.0, 1e-3, 3600.0, 1e9]))
    def jump(self, seconds):
        self.shift += seconds

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05]))
    def wait(self, seconds):
        time.sleep(seconds)

    @invariant()
    def it_is_well(self):
        if "server" in vars(self):
            health = httpx.get(f"{self.address}/health", timeout=WAIT)
            assert health.status_code == 200, health.text

    def teardown(self):
        try:
            if "server" in vars(self):
                self.check_end()
        finally:
            self.stack.close()
        wait_until(lambda: leaks() <= self.before)

    def check_end(self):
        """Check all answers, that nothing is left of them, and that the server serves on."""
        for ask, future in self.answers:
            self.check(ask, future.result(WAIT))
        wait_until(lambda: not any(replica.inbox.num_open for replica in self.group.members))
        wait_until(lambda: not self.server.server_state.connections and not self.server.server_state.tasks)
        stats = self.engine.stats()["tiny"]
        assert (stats.waiting, stats.running, stats.pages_used) == (0, 0, stats.pages_kept)
        if self.limits.request_s is None:
            last = Ask(limit=5)
            check_whole(last, fetch(self.address, last))

    def check(self, ask, got: Got):
        """Check an answer; of a client that vanished, what it has read."""
        code = got.error and got.error["code"]
        if got.status == 429:
            assert code in ("queue_full", "too_many_requests") or ask.patience is not None, got
            assert int(got.retry_after) >= 1
        elif code is not None:
            assert code == "timeout" or (code == "" and ask.patience is not None), got
            assert self.limits.request_s is not None
            assert got.status == (200 if ask.stream else 504)
            check_part(ask, got)
        elif ask.patience is None:
            check_whole(ask, got)
        else:
            check_part(ask, got)


def test_histories():
    run_state_machine_as_test(Faults, settings=settings(max_examples=6, stateful_step_count=15, deadline=None))


@pytest.fixture
def server():
    """Run a server of the small decoder; yield its address and its engine."""
    with InferenceEngine() as engine:
        engine.add_model("tiny", decoder())
        with running(make_app(engine)) as (address, _):
            yield address, engine


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [reset, socket.socket.close])
def test_a_client_that_vanishes_behind_its_next_request_is_noticed(server, stream, end):
    """The next request comes while the first one is answered, and waits for its turn."""
    address, engine = server
    connection = connect(address)
    send(connection, Ask(limit=900, n=4, stream=stream).body, keep_alive=True)
    wait_until(lambda: engine.stats()["tiny"].running == 4)
    send(connection, Ask(limit=5).body)
    time.sleep(0.02)
    end(connection)
    wait_until(lambda: not engine.stats()["tiny"].running)
    stats = engine.stats()["tiny"]
    assert (stats.finished, stats.failed, stats.waiting) == (0, 4, 0)


@pytest.mark.parametrize("ahead", [0, 1, 5, 200])
def test_requests_that_come_at_once_are_answered_in_their_order(server, ahead):
    """However many bytes of them there are: more than are read ahead, too."""
    address, _ = server
    asks = [Ask(start=number % 3, limit=1 + number % 7, seed=number) for number in range(1 + ahead)]
    connection = connect(address)
    for ask in asks:
        send(connection, ask.body, keep_alive=ask is not asks[-1])
    content = b""
    while piece := connection.recv(65536):
        content += piece
    reset(connection)
    bodies = [json.loads(line) for line in re.findall(rb"{.*}", content)]
    texts = [body["choices"][0]["text"] for body in bodies]
    assert texts == [alone(ask)[0][0] for ask in asks]
