"""The targets: figures follow what a model really takes, and limits decide."""

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_modules import Recorded, packed

import bitnet_jit
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.engine.memory.pool import BufferPool
from bitnet_jit.engine.targets import added_memory, bandwidth, concurrency, growth, latency, overhead, pool, throughput
from bitnet_jit.engine.targets.layers import random_layer, random_rows
from bitnet_jit.engine.targets.run import QUICK, STAGES, TargetOptions, measure_targets
from bitnet_jit.engine.targets.target import Target
from bitnet_jit.engine.targets.weight_bytes import measure_weight_bytes
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.backend import Rates


@pytest.fixture
def engine():
    with InferenceEngine() as engine:
        yield engine


NAMES = ["throughput", "latency", "memory", "utilization", "pool hit rate", "fragmentation", "allocation", "weights"]
NAMES += ["added per call", "added per batch", "growth"]


class Slow(torch.nn.Module):
    """Sleeps in each call, and once in so many calls longer."""

    def __init__(self, seconds, spike=0.0, every=1):
        super().__init__()
        self.seconds, self.spike, self.every, self.calls = seconds, spike, every, 0

    def forward(self, x):
        self.calls += 1
        time.sleep(self.seconds + (self.spike if self.calls % self.every == 0 else 0))
        return x


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_limit_decides(limit, figure):
    at_least = Target("a", limit, "x", True, figure, "")
    at_most = Target("a", limit, "x", False, figure, "")
    assert at_least.is_met == (figure >= limit)
    assert at_most.is_met == (figure <= limit)
    assert Target("a", limit, "x", True, None, "").is_met is None
    assert not Target("a", limit, "x", True, math.nan, "").is_met


def test_throughput_is_that_of_a_packed_layer_in_float32(engine):
    target, results = throughput.measure_throughput(engine, "cpu", 10)
    layer = engine.model(throughput.MODEL).module
    assert (layer.in_features, layer.out_features) == (768, 768)
    assert target.measured == results.rows_per_s > results.single_rows_per_s
    assert target.more_is_better
    assert target.limit == 300_000


def test_a_slow_model_misses(engine, monkeypatch):
    monkeypatch.setattr(throughput, "random_layer", lambda *_: Slow(0.002))
    monkeypatch.setattr(latency, "random_layer", lambda *_: Slow(0.001, spike=0.02, every=20))
    rows, _ = throughput.measure_throughput(engine, "cpu", 10)
    assert rows.measured < 256 / 0.002
    assert rows.is_met is False
    target, latencies = latency.measure_latency(engine, "cpu", 100)
    assert len(latencies.milliseconds) == 100
    assert target.measured >= 21
    assert target.is_met is False
    assert 1 <= latencies.quantile(0.5) < 10


def test_latency_is_of_a_million_parameters(engine):
    target, _ = latency.measure_latency(engine, "cpu", 10)
    assert engine.model(latency.MODEL).total_weight_count == 2**20 + 1  # and its scale
    assert target.measured > 0


def test_memory_is_what_an_import_and_an_engine_add(monkeypatch):
    added = added_memory.added_bytes()
    assert 1e6 < added < 50e6
    heavier = added_memory.PROGRAM.replace("as engine:", "as engine:\n    kept = b'x' * 60_000_000")
    monkeypatch.setattr(added_memory, "PROGRAM", heavier)
    target = added_memory.measure_added_memory()
    assert target.measured > 60
    assert target.is_met is False


def test_utilization_is_bytes_over_the_bandwidth_of_the_same_run(monkeypatch):
    """A bandwidth that is known makes the share a time."""
    monkeypatch.setattr(bandwidth, "measure_rates", lambda *_: Rates(1e9, 1.0))
    first = bandwidth.measure_bandwidth("cpu", 0.05, (512, 512), 2**20)
    monkeypatch.setattr(bandwidth, "measure_rates", lambda *_: Rates(1e15, 1.0))
    second = bandwidth.measure_bandwidth("cpu", 0.05, (512, 512), 2**20)
    assert first.measured > 1000 * second.measured > 0
    assert second.is_met is False


def test_copies_are_apart():
    layers = bandwidth.copies(random_layer(64, 64), 10_000)
    assert len({layer.w_packed.data_ptr() for layer in layers}) == len(layers) == 1 + 10_000 // 1024
    assert all(torch.equal(layer.w_packed, layers[0].w_packed) for layer in layers)


@pytest.mark.parametrize(("free", "shape"), [(2**40, (28672, 8192)), (4 * 2**30, (8192, 8192)), (2**20, (4096, 4096))])
def test_the_large_layer_fits_in_memory(free, shape, monkeypatch):
    monkeypatch.setattr(bandwidth, "total_memory", lambda: free)
    monkeypatch.setattr(bandwidth, "memory_used", lambda device: 0.0)
    assert bandwidth.fitting_shape() == shape


def test_t5_is_a_tenth_of_bfloat16():
    assert measure_weight_bytes().measured == 90.0
    assert measure_weight_bytes().is_met


def test_what_the_engine_adds_is_told(engine, monkeypatch):
    single, batch = overhead.measure_overhead(engine, "cpu", 0.05)
    assert 0 <= single.measured < 1000
    assert batch.measured >= 0
    with InferenceEngine() as slow:
        infer, infer_batch = slow.infer, slow.infer_batch
        monkeypatch.setattr(slow, "infer", lambda *given: (time.sleep(0.002), infer(*given))[1])
        monkeypatch.setattr(slow, "infer_batch", lambda *given: (time.sleep(0.2), infer_batch(*given))[1])
        single, batch = overhead.measure_overhead(slow, "cpu", 0.05)
    assert single.measured >= 1900
    assert single.is_met is False
    assert batch.measured > 100
    assert batch.is_met is False


def test_the_pool_is_measured_over_a_serving_run(monkeypatch):
    hits, lost, taken = pool.measure_pool(80, 2)
    assert 50 < hits.measured < 100
    assert 0 < lost.measured < 50
    assert taken.measured > 0
    allocate = BufferPool.allocate
    slow = lambda self, *given: (time.sleep(0.002), allocate(self, *given))[1]  # noqa: E731
    monkeypatch.setattr(BufferPool, "allocate", slow)
    _, _, taken = pool.measure_pool(10, 1)
    assert taken.measured > 2
    assert taken.is_met is False


def test_memory_that_is_kept_is_growth(engine, monkeypatch):
    assert growth.measure_growth(engine, "cpu", 500).measured < 5
    kept = []
    with InferenceEngine() as leaking:
        infer = leaking.infer
        size = 40_000_000  # mapped by itself, not taken from what others have freed
        leak = lambda: kept.append(b"x" * size if len(kept) % 20 == 0 else b"")  # noqa: E731
        monkeypatch.setattr(leaking, "infer", lambda *given: (leak(), infer(*given))[1])
        target = growth.measure_growth(leaking, "cpu", 100)
    assert target.measured > 150
    assert target.is_met is False


def test_callers_call_and_rows_are_counted(engine):
    module = Recorded(packed(8, 8), seconds=0.005)
    engine.add_model("slow", module)
    one, four = concurrency.rows_by_callers(engine, "slow", torch.ones(3, 8), 0.2, (1, 4))
    assert (one.concurrency, four.concurrency) == (1, 4)
    assert 0 < one.per_second <= 3 / 0.005
    assert one.per_second < 0.75 * four.per_second <= 0.75 * 4 * 3 / 0.005
    assert len(module.threads) >= 4


def test_texts_are_written_together(engine):
    engine.add_model("tiny", bitnet_jit.load())
    points = concurrency.tokens_by_texts(engine, "tiny", 256, (1, 3), new_tokens=5)
    assert [point.concurrency for point in points] == [1, 3]
    assert all(point.per_second > 0 for point in points)
    assert engine.stats()["tiny"].finished == 1 + 2 * (1 + 3)


def test_the_report_has_every_target_and_grades_by_them():
    stages = []
    report = measure_targets(QUICK, bitnet_jit.load(), "tiny", stages.append)
    assert len(stages) == STAGES
    assert [target.name for target in report.targets] == NAMES
    fields = report.fields()
    assert len(fields["latencies_ms"]) == QUICK.iterations
    assert fields["percentiles_ms"]["50"] <= fields["percentiles_ms"]["99"] <= fields["percentiles_ms"]["99.9"]
    assert report.graded.p99_ms == report.figure("latency") == fields["percentiles_ms"]["99"]
    assert report.graded.rows_per_s == report.figure("throughput")
    assert report.graded.memory_mb == report.figure("memory")
    assert report.are_met == all(target.is_met for target in report.targets)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"iterations": 0}, "iterations"), ({"iterations": 2.5}, "iterations"), ({"device": "x"}, "device")],
)
def test_wrong_options_are_named(wrong, words):
    with pytest.raises(InvalidInput, match=words):
        TargetOptions(**wrong)


def test_layers_are_the_same_each_time_and_too_large_ones_are_refused():
    assert torch.equal(random_layer(17, 33).w_packed, random_layer(17, 33).w_packed)
    assert torch.equal(random_rows(3, 5), random_rows(3, 5))
    with pytest.raises(InvalidInput, match="100000000x1000000"):
        random_layer(10**8, 10**6)
