"""The benchmark: figures follow what a model really takes, grades follow figures."""

import time

import pytest
import torch

from bitnet_jit.engine import InferenceEngine
from bitnet_jit.engine.tensors.benchmark import BATCH, benchmark, quantile
from bitnet_jit.engine.tensors.report import BenchmarkResults
from bitnet_jit.errors import InvalidInput


class Slow(torch.nn.Module):
    """Takes as long as it is told, and once in so many calls longer."""

    def __init__(self, seconds, spike=0.0, every=1):
        super().__init__()
        self.seconds, self.spike, self.every, self.calls, self.rows = seconds, spike, every, 0, 0

    def forward(self, x):
        self.calls += 1
        self.rows += len(x)
        time.sleep(self.seconds + (self.spike if self.calls % self.every == 0 else 0))
        return x


def test_figures_are_those_of_the_model():
    model = Slow(0.002, spike=0.02, every=25)
    results = benchmark(model, torch.ones(1, 3), iterations=100)
    assert results.iterations == 100
    assert 2 <= results.p50_ms < 10
    assert results.p99_ms >= 22
    assert results.p50_ms <= results.p95_ms <= results.p99_ms
    assert results.mean_ms >= 2.8
    assert results.warmup_s >= 0.04
    assert results.single_rows_per_s <= 500
    assert model.rows >= 100 + 4 * BATCH
    assert results.batch_speedup > 10  # joined rows sleep once


def test_an_engine_measures_its_models(make_engine):
    engine = make_engine()
    engine.add_model("slow", Slow(0.001))
    results = engine.benchmark("slow", torch.ones(2, 3), iterations=5)
    assert not results.meets_targets(rows_per_s=1, p99_ms=0.5)
    assert results.meets_targets(rows_per_s=100, p99_ms=1000)
    text = results.display()
    assert f"{results.rows_per_s:,.0f}" in text
    assert results.grade() in text
    with pytest.raises(InvalidInput, match="iterations: .* got 0"):
        engine.benchmark("slow", torch.ones(2, 3), iterations=0)


@pytest.mark.parametrize(
    ("rows", "p99", "memory", "single", "grade", "score"),
    [
        (300_000, 1, 50, 75_000, "A+", 100),
        (299_999, 1, 50, 74_000, "A", 90),
        (200_000, 2, 100, 60_000, "B", 75),
        (100_000, 5, 200, 60_000, "C", 50),
        (50_000, 10, 500, 45_000, "D", 25),
        (1, 1000, 5000, 2, "D", 0),
        (300_000, 1, None, 75_000, "A+", 100),
    ],
)
def test_grades(rows, p99, memory, single, grade, score):
    results = BenchmarkResults("cpu", 1, 0.0, p99, p99, p99, p99, rows, single, memory)
    assert (results.grade(), results.score) == (grade, pytest.approx(score))


def test_quantiles_are_values_that_were_seen():
    ordered = [float(number) for number in range(1, 101)]
    assert [quantile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert quantile([7.0], 0.01) == 7.0


def test_without_an_engine_nothing_is_left(make_engine):
    with InferenceEngine() as engine, pytest.raises(LookupError):
        engine.benchmark("none", torch.ones(1))
