"""A worker that is stuck while another one gets on: its requests are given up, and no others; new ones go elsewhere."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from http_histories import WAIT, Ask, check_whole, decoder, fetch
from served import running, wait_until

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.text import replica as replica_file
from bitnet_jit.server.app import make_app

STUCK_S = 0.3


@contextmanager
def serving(**options):
    """Run a server of two replicas, the first of which can be held within a step.

    Yields:
        Its address, the replicas, and two events: the first one is within a step; it may go on.
    """
    with InferenceEngine(EngineConfig(**options)) as engine:
        group = engine.add_model("tiny", decoder(), replicas=[decoder()]).replica
        for handle in [engine.submit("tiny", Ask(start=start).prompt, 60) for start in range(8)]:
            handle.result(WAIT)  # kernels are there from now on, for steps of one text and of several
        within, go_on = threading.Event(), threading.Event()
        run = group.members[0]._run
        group.members[0]._run = lambda plan: (within.set(), go_on.wait(WAIT), run(plan))
        with running(make_app(engine, stuck_s=STUCK_S)) as (address, _), ThreadPoolExecutor(40) as clients:
            try:
                yield address, group.members, within, go_on, clients
            finally:
                go_on.set()


def states(address):
    """Return the status of /health and the state of the model."""
    health = httpx.get(f"{address}/health", timeout=WAIT)
    return health.status_code, health.json()["models"]["tiny"]


@pytest.mark.parametrize("stream", [False, True])
def test_its_requests_alone_are_given_up(stream):
    """Those of the other one are being written all the time."""
    with serving() as (address, members, within, go_on, clients):
        stuck = clients.submit(fetch, address, Ask(limit=300, stream=stream))
        assert within.wait(WAIT)
        others = []
        while not stuck.done():  # one after another, so that some are always there
            ask = Ask(start=len(others) % 3, limit=250, stream=stream)
            others.append((ask, fetch(address, ask)))
        got = stuck.result()
        assert "has made no step for 0.3 s" in got.error["message"]
        assert (got.status, got.texts) == (200 if stream else 503, {})
        assert states(address) == (503, "stuck")
        for ask, other in others:
            check_whole(ask, other)
        go_on.set()
        wait_until(lambda: states(address) == (200, "idle"))
        check_whole(Ask(), fetch(address, Ask()))
        assert [member.counts.failed for member in members] == [1, 0]


def test_new_requests_pass_it_by_and_go_on_elsewhere():
    """Though it has less to do; also those that it was given before anybody knew that it is stuck."""
    with serving() as (address, members, within, go_on, clients):
        stuck = clients.submit(fetch, address, Ask(length=1, limit=1))
        assert within.wait(WAIT)
        early = [Ask(start=number % 3, limit=10, seed=number, n=2) for number in range(8)]
        answers = [clients.submit(fetch, address, ask) for ask in early]
        wait_until(lambda: members[0].inbox.came)
        wait_until(lambda: states(address)[1] == "stuck")
        late = [Ask(start=number % 3, limit=40, seed=number, stream=True) for number in range(8)]
        answers += [clients.submit(fetch, address, ask) for ask in late]
        for ask, answer in zip(early + late, answers, strict=True):
            check_whole(ask, answer.result(WAIT))
        assert stuck.result(WAIT).status == 503
        assert members[0].inbox.num_open == 1
        before = members[0].counts.finished
        go_on.set()
        wait_until(lambda: states(address) == (200, "idle"))
        again = [clients.submit(fetch, address, ask) for ask in late]
        for ask, answer in zip(late, again, strict=True):
            check_whole(ask, answer.result(WAIT))
        assert members[0].counts.finished > before, "it serves again"


def test_a_step_that_ends_in_time_is_no_fault():
    with serving() as (address, _, within, go_on, clients):
        answer = clients.submit(fetch, address, Ask(limit=30))
        assert within.wait(WAIT)
        threading.Timer(STUCK_S / 3, go_on.set).start()
        check_whole(Ask(limit=30), answer.result(WAIT))
        assert states(address)[0] == 200


def test_what_nobody_has_looked_at_ends_with_the_engine():
    """Whoever passes by replicas while they end loses no request, and has none written twice."""
    with InferenceEngine() as engine:
        group = engine.add_model("tiny", decoder(), replicas=[decoder()]).replica
        handles = [engine.submit("tiny", Ask().prompt, 200) for _ in range(12)]
        closing = threading.Thread(target=engine.close)
        closing.start()
        turn = 0
        while closing.is_alive():
            group.pass_by(group.members[turn % 2 : turn % 2 + 1])
            turn += 1
            time.sleep(0.001)
        texts = [handle.result(0).tokens for handle in handles]
    expected = decoder().generate(list(Ask().prompt.encode()), 200).tolist()[len(Ask().prompt) :]
    assert texts == [expected] * 12


def test_a_shutdown_leaves_a_stuck_worker_behind(monkeypatch, caplog):
    """A server that is told to end does so, though a step does not."""
    monkeypatch.setattr(replica_file, "ABANDON_S", 0.3)
    with serving() as (address, members, within, go_on, clients):
        stuck = clients.submit(fetch, address, Ask(limit=300))
        assert within.wait(WAIT)
        assert stuck.result(WAIT).status == 503
        begin = time.monotonic()
        members[0].close("it is being closed", abandon=True)
        assert 0.3 <= time.monotonic() - begin < 10
        assert members[0].inbox.num_open == 1
        go_on.set()
        wait_until(lambda: not members[0].inbox.num_open)
    assert any("tiny 0 has not ended" in record.getMessage() for record in caplog.records)
