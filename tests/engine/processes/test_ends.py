"""How workers in processes begin and end: nothing is left behind, and errors are those of a thread."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from lone_texts import alone, prompt_of
from process_engines import WAIT, is_running, kill, kill_and_wait, serving, wait_ready
from served import wait_until

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.text.processes import process as process_file
from bitnet_jit.engine.text.processes import replica as replica_file
from bitnet_jit.errors import CheckpointError, DeviceFailed, EngineClosed, InvalidInput
from bitnet_jit.generation.sampling import Sampling

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="processes are looked at in /proc")


def held():
    """Return this process's open files, and its threads of workers."""
    gc.collect()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("bitnet-jit tiny")]
    return len(os.listdir("/proc/self/fd")), len(threads)


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
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


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the small model."""
    return shutil.copytree(embedded_model(), tmp_path / "tiny")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"dtype": torch.float16}, InvalidInput, "dtype: expected torch.float32 or torch.bfloat16"),
        ({"head": "wooden"}, InvalidInput, "head"),
        ({"cache": "wooden"}, InvalidInput, "cache"),
    ],
)
def test_what_cannot_be_loaded_is_refused_as_in_a_thread(options, kind, words):
    before = held()
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        with pytest.raises(kind, match=words):
            engine.load_model(devices=["cpu", "cpu"], **options).result()
        assert not engine.models
        assert engine.load_model(devices=["cpu"]).result().model_id == "tiny-bitnet"
    assert held() == before


def test_damaged_files_are_told_and_nothing_is_left(folder):
    (weights,) = folder.glob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with InferenceEngine(EngineConfig(processes=True)) as engine, pytest.raises(CheckpointError, match=weights.name):
        engine.load_model(folder, devices=["cpu", "cpu"]).result()
    (folder / "config.json").write_text("{")
    with InferenceEngine(EngineConfig(processes=True)) as engine, pytest.raises(CheckpointError, match="config.json"):
        engine.load_model(folder, devices=["cpu", "cpu"]).result()


def test_warnings_of_a_load_are_given_here(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 256
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        engine.load_model(folder, devices=["cpu"]).result()  # filterwarnings = error: there are none


def test_a_process_that_ends_before_it_is_ready_is_told(monkeypatch):
    monkeypatch.setattr(process_file, "CHILD", "no_such_module")
    words = "tiny-bitnet 0 on cpu: its process has ended .exit code 1"
    with InferenceEngine(EngineConfig(processes=True)) as engine, pytest.raises(DeviceFailed, match=words):
        engine.load_model(devices=["cpu", "cpu"]).result()


def test_a_process_is_not_started_anew_with_other_weights(folder):
    """Files that were written to meanwhile are another model."""
    with InferenceEngine(EngineConfig(processes=True)) as engine:
        members = engine.load_model(folder, devices=["cpu", "cpu"]).result().replica.members
        (weights,) = folder.glob("*.safetensors")
        os.utime(weights, (1, 1))
        handles = [engine.submit("tiny", prompt_of(0, 9), 150) for _ in range(4)]
        kill_and_wait(members[0])
        assert [len(handle.result(WAIT).tokens) for handle in handles] == [150] * 4
        wait_until(lambda: not members[0].is_alive)
        assert engine.stats()["tiny"].replicas_alive == 1
        handle = engine.submit("tiny", prompt_of(0, 9), 900)
        kill(members[1])
        with pytest.raises(DeviceFailed, match="its files were written to since the model was loaded"):
            handle.result(WAIT)


def test_a_system_that_starts_no_more_processes_is_tried_again(monkeypatch, caplog):
    real, refused = process_file.subprocess.Popen, []

    def refuse(*arguments, **options):
        if len(refused) < 2:
            refused.append(arguments)
            raise BlockingIOError(11, "no more processes")
        return real(*arguments, **options)

    with serving(1) as (engine, (member,)):
        handle = engine.submit("tiny", prompt_of(0, 9), 100)
        next(iter(handle))
        monkeypatch.setattr(process_file.subprocess, "Popen", refuse)
        kill_and_wait(member)
        assert handle.result(WAIT).tokens[1:] == alone(0, 9, 100, Sampling())[1:]
        wait_ready([member])
        assert len(refused) == 2
    assert sum("cannot be started (" in record.getMessage() for record in caplog.records) == 2


def test_a_tuned_engine_writes_its_first_texts_in_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("BITNET_JIT_CACHE", str(tmp_path))
    level = bitnet_jit.engine.OptimizationLevel.AGGRESSIVE
    with serving(2, optimization_level=level, tuning_seconds=0.5, max_running=2) as (engine, members):
        assert [member.stats().finished for member in members] == [1, 1]
        assert engine.submit("tiny", prompt_of(0, 9), 40).result(WAIT).tokens == alone(0, 9, 40, Sampling())


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
