"""Requests and devices that do harm in a process: a request that ends processes, a lost context, a step that hangs."""

import pytest
from failing_child import HANGS, KILLS, PRINTS, RAISES
from lone_texts import alone, decoder, prompt_of
from process_engines import WAIT, serving, wait_ready
from served import wait_until

from bitnet_jit.engine.text.processes import process as process_file
from bitnet_jit.engine.text.processes import restarts as restarts_file
from bitnet_jit.errors import RequestFailed
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.server.watch import Watch


@pytest.fixture
def harmful(monkeypatch):
    """Let processes be those in which requests do harm."""
    monkeypatch.setattr(process_file, "CHILD", "failing_child")
    monkeypatch.setattr(restarts_file, "MAX_PAUSE_S", 0.05)


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.exhaustive), 2])
def test_a_request_that_ends_every_process_fails_alone(harmful, replicas):
    """Those beside it go on, also those that are read in the very step in which it ends the process, and who waits."""
    with serving(replicas, max_running=5) as (engine, members):
        prompts = [prompt_of(start, 9) for start in range(12)]
        handles = [engine.submit("tiny", prompt, 100) for prompt in prompts[:2]]
        next(iter(handles[0]))
        poison = engine.submit("tiny", [KILLS, *prompt_of(0, 9)], 100)
        handles += [engine.submit("tiny", prompt, 100) for prompt in prompts[2:]]
        embedding = engine.submit_embedding("tiny", prompts[0])
        with pytest.raises(RequestFailed, match="4 processes have ended while it was to get its next token: its proc"):
            poison.result(WAIT)
        tokens = [handle.result(WAIT).tokens for handle in handles]
        assert tokens == [alone(start, 9, 100, Sampling()) for start in range(12)]
        assert embedding.result(WAIT).shape == (384,)
        stats = engine.stats()["tiny"]
        assert (stats.finished, stats.failed) == (13, 1)
        wait_ready(members)
        assert engine.stats()["tiny"].restarts == 4


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_device_that_fails_in_a_process_costs_no_text(harmful, caplog, replicas):
    with serving(replicas) as (engine, members):
        harm = [RAISES, *prompt_of(0, 9)]
        handles = [engine.submit("tiny", prompt_of(0, 9), 150) for _ in range(3)]
        hurt = engine.submit("tiny", harm, 60)
        assert [handle.result(WAIT).tokens for handle in handles] == [alone(0, 9, 150, Sampling())] * 3
        assert hurt.result(WAIT).tokens == decoder().generate(harm, 60).tolist()[len(harm) :]
        assert engine.stats()["tiny"].failed == 0
        wait_ready(members)
        assert engine.stats()["tiny"].restarts == 1
    assert any(
        "CUDA error: device-side assert triggered" in record.getMessage() and "exit code 1" in record.getMessage()
        for record in caplog.records
    )


def test_what_libraries_print_disturbs_nobody(harmful, capfd):
    prompt = [PRINTS, *prompt_of(0, 9)]
    with serving(1) as (engine, _):
        assert engine.submit("tiny", prompt, 20).result(WAIT).tokens == decoder().generate(prompt, 20).tolist()[10:]
    printed = capfd.readouterr()
    assert "a library prints" in printed.err
    assert "and Python does" in printed.err
    assert not printed.out


def test_a_step_that_hangs_costs_its_process_alone(harmful, caplog):
    """Who watches the workers has the process end; even the requests in that step go on, and so do clients."""
    harm = [HANGS, *prompt_of(0, 9)]
    with serving(2) as (engine, members):
        for handle in [engine.submit("tiny", prompt_of(start, 9), 60) for start in range(8)]:
            handle.result(WAIT)  # kernels are there from now on, for steps of one text and of several
        watch = Watch(engine, stuck_s=1.5)
        hurt = engine.submit("tiny", harm, 60)
        handles = [engine.submit("tiny", prompt_of(0, 9), 150) for _ in range(4)]
        watch.add("tiny", [hurt, *handles])
        seen = set()
        wait_until(lambda: seen.add(watch.states()["tiny"]) or "starting" in seen)
        assert "stuck" not in seen, "it is started anew at once"
        wait_until(lambda: watch.states()["tiny"] != "starting")
        assert [handle.result(WAIT).tokens for handle in handles] == [alone(0, 9, 150, Sampling())] * 4
        assert hurt.result(WAIT).tokens == decoder().generate(harm, 60).tolist()[len(harm) :]
        wait_until(lambda: watch.states()["tiny"] == "idle")
        stats = engine.stats()["tiny"]
        assert (stats.failed, stats.finished, stats.restarts) == (0, 13, 1)
    words = [record.getMessage() for record in caplog.records if "started anew" in record.getMessage()]
    assert len(words) == 1
    assert "it has made no step for 1.5 s (exit code -9, SIGKILL)" in words[0]
