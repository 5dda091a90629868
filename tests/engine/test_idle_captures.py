"""A worker without requests captures the steps that some may need, where steps are graphs; here they are recorded."""

import pytest
import torch
from served import wait_until

import bitnet_jit
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.text import replica as replica_file
from bitnet_jit.errors import DeviceFailed
from bitnet_jit.runner import recorded

WAIT = 30


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(replica_file, "IDLE_S", 0.001)
    monkeypatch.setattr(recorded, "GRAPH_ROWS", (16, 32))
    with InferenceEngine(EngineConfig(max_running=2)) as engine:
        yield engine


def as_graphs(engine):
    """Have a worker's steps made as where they are graphs; return the worker."""
    worker = engine.add_model("tiny", bitnet_jit.load()).replica
    worker._runner._recorded._by_graph = worker._captures = True
    return worker


def test_steps_are_captured_once_a_text_has_come(engine):
    worker = as_graphs(engine)
    alone = bitnet_jit.load().generate(list(b"In the beginning"), 20).tolist()[-20:]
    wait_until(lambda: worker.counts.steps == 0, WAIT)
    assert not worker._runner._recorded._steps
    assert engine.submit("tiny", list(b"In the beginning"), 20).result(WAIT).tokens == alone
    wait_until(lambda: not worker._captures, WAIT)
    shapes = {(shape.rows, shape.sequences) for shape in worker._runner._recorded._steps}
    assert shapes >= {(16, 1), (32, 1), (16, 16), (32, 16)}
    assert engine.submit("tiny", list(b"In the beginning"), 20).result(WAIT).tokens == alone


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too much"), MemoryError("too much"), KeyError("a fault")])
def test_an_error_ends_the_captures_alone(engine, monkeypatch, caplog, error):
    def fail(*arguments):
        raise error

    worker = as_graphs(engine)
    monkeypatch.setattr(worker._runner, "capture_next", fail)
    assert len(engine.submit("tiny", [1, 2, 3], 5).result(WAIT).tokens) == 5
    wait_until(lambda: not worker._captures, WAIT)
    assert len(engine.submit("tiny", [1, 2, 3], 5).result(WAIT).tokens) == 5
    assert repr(error) in caplog.text


def test_a_device_that_fails_in_a_capture_ends_the_worker(engine, monkeypatch):
    def fail(*arguments):
        raise DeviceFailed("the device is gone")

    worker = as_graphs(engine)
    monkeypatch.setattr(worker._runner, "capture_next", fail)
    engine.submit("tiny", [1, 2, 3], 5).result(WAIT)
    wait_until(lambda: not worker._thread.is_alive(), WAIT)


def test_an_engine_closes_while_steps_are_captured(engine):
    worker = as_graphs(engine)
    engine.submit("tiny", [1, 2, 3], 5).result(WAIT)
    engine.close()
    assert not worker._thread.is_alive()
