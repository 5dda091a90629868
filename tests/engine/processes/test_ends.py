"""How workers in processes begin and end: nothing is left behind, and errors are those of a thread."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from lone_texts import alone, prompt_of
from process_engines import WAIT, held, is_running, kill, serving
from served import wait_until

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.text.processes import replica as replica_file
from bitnet_jit.errors import EngineClosed
from bitnet_jit.generation.sampling import Sampling

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="processes are looked at in /proc")


def test_what_was_taken_is_written_before_an_engine_closes_and_nothing_is_left():
    with serving(1):
        pass  # what the first engine of a process opens for good
    before = held()
    with serving(2) as (engine, members):
        pids = [member.pid for member in members]
        assert all(map(is_running, pids))
        handles = [engine.submit("tiny", prompt_of(0, 9), 150) for _ in range(6)]
    assert [handle.result(0).tokens for handle in handles] == [alone(0, 9, 150, Sampling())] * 6
    assert not any(map(is_running, pids))
    assert not any(member.is_alive or member.num_open for member in members)
    assert held() == before
    with pytest.raises(EngineClosed, match="it is being closed"):
        members[0]._successors.submit(engine)


def test_an_engine_that_is_abandoned_leaves_nobody_waiting():
    with serving(2) as (engine, members):
        pids = [member.pid for member in members]
        handles = [engine.submit("tiny", "And ", 900) for _ in range(6)]
        next(iter(handles[0]))
        begin = time.monotonic()
        engine.close(abandon=True)
        assert time.monotonic() - begin < 5
        for handle in handles:
            with pytest.raises(EngineClosed, match="was not written to its end: it is being closed"):
                handle.result(0)
        assert not any(map(is_running, pids))


def test_a_process_that_is_killed_while_the_engine_closes_costs_no_text():
    with serving(1) as (engine, (member,)):
        handles = [engine.submit("tiny", prompt_of(0, 9), 300) for _ in range(4)]
        next(iter(handles[0]))
        threading.Timer(0.1, kill, [member]).start()
        engine.close()
        assert [len(handle.result(0).tokens) for handle in handles[1:]] == [300] * 3
        assert member.stats().restarts == 1


def test_a_close_has_its_time_though_a_process_makes_no_step():
    with serving(1) as (engine, (member,)):
        pid, handle = member.pid, engine.submit("tiny", "And ", 900)
        next(iter(handle))
        kill(member, signal.SIGSTOP)
        begin = time.monotonic()
        engine.model("tiny").replica.close("it is told to", timeout=0.5)
        assert 0.5 <= time.monotonic() - begin < 10
        with pytest.raises(EngineClosed, match="was not written to its end: it is told to"):
            handle.result(0)
        assert not is_running(pid)


def test_an_engine_that_nobody_holds_ends_its_processes():
    engine = InferenceEngine(EngineConfig(processes=True))
    members = engine.load_model(None, "tiny", devices=["cpu", "cpu"]).result().replica.members
    pids, handle = [member.pid for member in members], engine.submit("tiny", "And ", 900)
    del engine
    gc.collect()
    assert not any(map(is_running, pids))
    with pytest.raises(EngineClosed):
        handle.result(WAIT)


PARENT = """
import os, sys
from bitnet_jit.engine import EngineConfig, InferenceEngine
engine = InferenceEngine(EngineConfig(processes=True))
model = engine.load_model(None, "tiny", devices=["cpu", "cpu"]).result()
handle = engine.submit("tiny", "And ", 900)
next(iter(handle))
print(*[member.pid for member in model.replica.members], flush=True)
sys.stdin.read()
"""


FORKING = PARENT.replace("sys.stdin.read()", "import time; os.fork(); time.sleep(60)")


def test_processes_end_though_a_fork_of_the_engine_s_process_lives():
    """It holds the pipes to them, which do not end then."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.5)  # for the fork
        parent.kill()
        wait_until(lambda: not any(map(is_running, pids)))
        os.killpg(parent.pid, signal.SIGKILL)


LATER = [pytest.param(number, marks=pytest.mark.exhaustive) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGKILL, None, *LATER])
def test_processes_end_with_their_engine_however_it_ends(number):
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        if number is None:
            parent.stdin.close()  # it ends by itself
        else:
            parent.send_signal(number)
        parent.wait(WAIT)
    wait_until(lambda: not any(map(is_running, pids)))


def test_ctrl_c_is_for_the_engine():
    with serving(1) as (engine, (member,)):
        handle = engine.submit("tiny", prompt_of(0, 9), 150)
        next(iter(handle))
        kill(member, signal.SIGINT)
        assert len(handle.result(WAIT).tokens) == 150
        assert member.stats().restarts == 0


def test_a_process_that_is_slow_to_end_is_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(replica_file, "KILLED_S", 0.1)
    with serving(1) as (_, (member,)):
        real = member._session._process._process.kill
        monkeypatch.setattr(member._session._process, "kill", lambda: None)
        kill(member, signal.SIGSTOP)
        member.close("it is told to", timeout=0.1)
        assert any("is left behind" in record.getMessage() for record in caplog.records)
        real()
        wait_until(lambda: not member.is_alive)
