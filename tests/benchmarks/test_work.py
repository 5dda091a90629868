"""The parts of a benchmark: right answers, refusals of wrong ones, and the order in which contenders take turns."""

import numpy as np
import pytest

from benchmarks.harness import limits, peaks, timing
from benchmarks.harness.contender import Contender, Provider, wrong_reason
from benchmarks.harness.shapes import DEFAULT, Shape, parse_shapes
from benchmarks.harness.work import Work
from benchmarks.providers.linear import PROVIDERS
from bitnet_jit import reference

WORK = Work(Shape(16, 64), 3)


def contender(result, name="it", run=lambda number: None):
    return Contender(name, run, lambda: result, 1, 1, lambda threads: None)


def provider(tolerance, expected):
    return Provider("it", lambda work, copies: contender(expected), lambda work: expected, tolerance, lambda work: 1)


def test_the_right_answers_are_the_reference():
    assert np.array_equal(WORK.acc, reference.ternary_matmul(WORK.codes[0], WORK.w_q))
    assert np.array_equal(WORK.y, reference.bit_linear(WORK.x, WORK.w_q, WORK.w_scale))
    assert WORK.num_ops == 2 * 3 * 16 * 64


@pytest.mark.parametrize("tolerance", [0, 0.01])
def test_a_wrong_result_is_refused(tolerance):
    right = np.arange(1.0, 7.0).reshape(2, 3)
    asked = provider(tolerance, right)
    assert wrong_reason(asked, contender(right.copy()), WORK) is None
    for wrong in (right * 1.02, np.where(right == 4, np.nan, right), np.zeros_like(right)):
        assert wrong_reason(asked, contender(wrong), WORK).startswith("wrong result")
    assert "shape (3, 2)" in wrong_reason(asked, contender(right.T), WORK)


def test_a_tolerance_allows_a_little_and_equality_nothing():
    right = np.ones((2, 3), np.float32)
    near = right * np.float32(1.001)
    assert wrong_reason(provider(0.01, right), contender(near), WORK) is None
    assert wrong_reason(provider(0, right), contender(near), WORK) == "wrong result: 6 of 6 values differ"


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("work", [Work(Shape(64, 512), 1), Work(Shape(96, 256), 7)], ids=["one row", "seven rows"])
def test_every_provider_is_right_on_every_copy(name, work):
    asked = PROVIDERS[name]
    if reason := asked.unsupported_reason(work):
        pytest.skip(reason)
    built = asked.build(work, 3)
    assert wrong_reason(asked, built, work) is None
    for number in (1, 2, 5):
        built.run(number)
    assert wrong_reason(asked, built, work) is None
    assert built.num_bytes == asked.num_bytes(work)


def test_contenders_take_turns_on_one_copy_after_another(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)
    calls = []
    pair = [contender(None, name, lambda number, name=name: calls.append((name, number))) for name in "ab"]
    told = []
    times = timing.measure(pair, 1e-9, 1, tell=lambda: told.append(len(calls)))
    assert [name for name, _ in calls] == ["a"] * 3 + ["b"] * 3 + (timing.TURNS - 1) * (["a"] * 3 + ["b"] * 3)
    assert [number for name, number in calls if name == "a"] == list(range(3 * timing.TURNS))
    assert told == list(range(3, len(calls) + 1, 3))
    assert len(times["a"].microseconds) == timing.TURNS
    assert 0 <= times["a"].min <= times["a"].median


def test_a_share_of_time_bounds_the_calls(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)
    counted = []
    busy = Contender("busy", counted.append, lambda: None, 1, 1, lambda threads: None, max_calls=5)
    timing.measure([busy], 10.0, 1)
    assert len(counted) == timing.TURNS * (timing.WARM_CALLS + 5)


@pytest.mark.parametrize("threads", [1, 2])
def test_reads_cover_every_byte(threads):
    total = 64 * 8 * 5 + 24
    for piece in (total, 64 * 8):
        for reader in limits.readers(piece, total):
            reader.set_threads(threads)
            assert reader.result()[0] == reader.num_bytes // 8, reader.name


def test_peaks_count_the_operations_of_all_threads():
    for one, two in zip(peaks.peaks(1), peaks.peaks(2), strict=True):
        assert one.name == two.name
        assert two.num_ops == 2 * one.num_ops > 0
        two.set_threads(2)
        two.run(0)


def test_cold_bytes_leave_memory_for_all():
    size, cut_short = limits.cold_bytes(1, 1 << 20)
    assert size <= 4 << 20
    many, cut = limits.cold_bytes(10**6, 1 << 20)
    assert many < size
    assert cut
    assert cut_short == (size < 4 << 20)


def test_shapes_are_said_as_outputs_by_inputs():
    assert parse_shapes("6912x2560") == (Shape(6912, 2560),)
    assert str(Shape(6912, 2560)) == "6912x2560"
    assert parse_shapes("default") == DEFAULT
