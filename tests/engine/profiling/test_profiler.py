"""The profiler: figures follow what models really do, and stubs of constants would not pass."""

import gc
import mmap
import time

import pytest
import torch
from tensor_modules import packed
from torch import nn

import bitnet_jit
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.engine.profiling import comparison, leaks, phases
from bitnet_jit.engine.profiling.hot_spots import Stopwatch, hooked
from bitnet_jit.engine.profiling.latency import latency_of
from bitnet_jit.engine.profiling.leaks import FROZEN_BY_PYTHON, robust_slope
from bitnet_jit.engine.profiling.profiler import Profiler
from bitnet_jit.engine.profiling.transfers import compare_staging
from bitnet_jit.errors import BitNetError, InvalidInput


class Slow(nn.Module):
    """Sleeps in each call, and for each row."""

    def __init__(self, seconds=0.0, per_row=0.0):
        super().__init__()
        self.seconds, self.per_row, self.rows = seconds, per_row, []

    def forward(self, x):
        self.rows.append(len(x))
        time.sleep(self.seconds + self.per_row * len(x))
        return x


class Leaky(nn.Module):
    """Keeps some new bytes in each call."""

    def __init__(self, num_bytes):
        super().__init__()
        self.num_bytes, self.kept = num_bytes, []

    def forward(self, x):
        if self.num_bytes:
            self.kept.append(torch.ones(self.num_bytes, dtype=torch.uint8))
        return x


def test_latency_is_that_of_the_model():
    model = Slow(0.002)
    profile = Profiler(model).latency(torch.ones(4, 3), calls=30)
    assert profile.calls == 30
    assert len(model.rows) == 30 + 20
    assert 2 <= profile.p50_ms <= profile.p95_ms <= profile.p99_ms <= profile.max_ms
    assert profile.rows_per_s == pytest.approx(4 * profile.calls_per_s)
    assert profile.rows_per_s <= 2000
    assert f"{profile.p50_ms:.3f}" in profile.display()
    assert latency_of([0.001] * 98 + [0.5] * 2, 1).p99_ms == 500
    assert latency_of([0.001] * 98 + [0.5] * 2, 1).p95_ms == 1


def test_phases_tell_what_loading_takes():
    def load():
        time.sleep(0.02)
        with mmap.mmap(-1, 80_000_000) as needed:  # and not kept
            needed[::4096] = bytes(len(needed[::4096]))
        model = nn.Linear(1000, 10_000, bias=False)  # 40 MB
        return nn.Sequential(model, Slow(0.001)).eval()

    profile = Profiler.phases(load, torch.ones(1, 1000), calls=10)
    load_phase, run = profile["load"], profile["run"]
    assert [phase.name for phase in profile.phases] == ["load", "warm-up", "run"]
    assert load_phase.seconds >= 0.02
    assert run.seconds >= 0.01
    assert load_phase.grown_mb > 15
    assert abs(run.grown_mb) < 10
    assert load_phase.peak_mb is None or load_phase.peak_mb > load_phase.grown_mb + 10
    assert load_phase.device_peak_mb is None
    assert "warm-up" in profile.display()


def test_phases_without_a_system_that_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(phases, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(phases, "resident_bytes", lambda: None)
    profile = Profiler.phases(lambda: nn.Linear(3, 3), torch.ones(1, 3), calls=1)
    assert {(phase.grown_mb, phase.peak_mb) for phase in profile.phases} == {(None, None)}
    assert "-" in profile.display()


def test_the_slow_layer_is_the_hot_spot():
    model = nn.Sequential(packed(24, 24), nn.Sequential(Slow(0.003), Slow(0.001)), Slow(0.0), nn.Identity()).eval()
    spots = Profiler(model).hot_modules(torch.ones(2, 24), calls=5)
    assert [part.name for part in spots.parts[:2]] == ["1.0", "1.1"]
    assert {part.name for part in spots.parts} == {"", "0", "1", "1.0", "1.1", "2", "3"}
    assert spots.parts[0].kind == "Slow"
    assert 3 <= spots.parts[0].milliseconds < 10
    assert spots.parts[0].share > 0.5
    assert sum(part.share for part in spots.parts) == pytest.approx(1)
    assert sum(part.milliseconds for part in spots.parts) == pytest.approx(spots.total_ms)
    inner = next(part for part in spots.parts if part.name == "1")
    assert inner.milliseconds < 1  # the time of what is inside counts once
    assert "1.0" in spots.display(most=1)
    assert "and 6 more" in spots.display(most=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_module_called_twice_counts_twice():
    layer = Slow(0.001)
    spots = Profiler(nn.Sequential(layer, layer)).hot_modules(torch.ones(1, 3), calls=4)
    part = next(part for part in spots.parts if part.kind == "Slow")
    assert part.calls == 2
    assert part.milliseconds >= 2


def test_hooks_are_taken_off_behind_an_error():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ZeroDivisionError), hooked(model, Stopwatch(lambda: None)):
        raise ZeroDivisionError
    assert not model[0]._forward_hooks


def test_the_ops_of_a_decoder_are_told_by_their_time(tiny):
    one, many = Profiler(tiny).hot_ops(rows=1), Profiler(tiny).hot_ops(rows=64)
    assert sum(part.share for part in one.parts) == pytest.approx(1)
    assert [part.milliseconds for part in one.parts] == sorted((part.milliseconds for part in one.parts), reverse=True)
    assert {part.kind.split(".")[0] for part in one.parts} <= {"numba", "torch", "triton"}
    assert any("linear" in part.name for part in one.parts)
    assert max(part.calls for part in one.parts) >= 2  # there are several blocks
    assert many.total_ms > one.total_ms


def test_a_wider_layer_is_the_hotter_op():
    model = nn.Sequential(packed(256, 256), packed(256, 4096), packed(4096, 33)).eval()
    spots = Profiler(model).hot_ops(rows=16)
    assert "256" in spots.parts[0].name
    assert "4096" in spots.parts[0].name
    with pytest.raises(InvalidInput, match="no packed layer"):
        Profiler(nn.Linear(2, 2)).hot_ops()


def test_a_sweep_times_each_size(monkeypatch):
    monkeypatch.setattr(comparison, "SECONDS", 0.02)
    model = Slow(0.002, per_row=0.0002)
    sweep = Profiler(model).sweep(torch.ones(3, 5), sizes=[1, 7, 32])
    assert [way.rows for way in sweep.ways] == [1, 7, 32]
    assert set(model.rows) == {1, 7, 32}
    for way in sweep.ways:
        assert way.p50_ms >= 2 + 0.2 * way.rows
        assert way.p99_ms >= way.p50_ms
    assert sweep.best.rows == 32
    assert sweep.ways[0].speed == 1
    assert sweep.ways[2].speed == pytest.approx(sweep.ways[2].rows_per_s / sweep.ways[0].rows_per_s)
    assert "32 rows *" in sweep.display()


class Threaded(nn.Module):
    """Notes the numbers of threads of its calls, and is faster with two."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, x):
        self.seen.add((bitnet_jit.get_num_threads(), torch.get_num_threads()))
        time.sleep(0.004 / bitnet_jit.get_num_threads())
        return x


@pytest.mark.parametrize("number", [None, 3])
def test_threads_are_compared_and_put_back(number, monkeypatch):
    monkeypatch.setattr(comparison, "SECONDS", 0.02)
    bitnet_jit.set_num_threads(number)
    try:
        before, model = torch.get_num_threads(), Threaded()
        result = Profiler(model).compare_threads(torch.ones(1, 3), numbers=[1, 2])
        assert model.seen == {(1, 1), (2, 2)}
        assert result.best.name == "2 threads"
        assert (torch.get_num_threads(), THREADS._number) == (before, number)
    finally:
        bitnet_jit.set_num_threads(None)


def test_devices_are_compared_by_copies(monkeypatch):
    monkeypatch.setattr(comparison, "SECONDS", 0.01)
    model = packed(24, 24)
    result = Profiler(model).compare_devices(torch.ones(2, 24))
    assert result.ways[0].name == "cpu"
    assert result.ways[0].rows_per_s > 0
    with pytest.raises(InvalidInput, match="device: 'meta'"):
        Profiler(model).compare_devices(torch.ones(2, 24), ["meta"])


def test_every_kernel_of_an_op_is_timed(monkeypatch):
    monkeypatch.setattr(comparison, "KERNEL_SECONDS", 0.002)
    (result,) = Profiler(packed(256, 128)).compare_kernels(rows=4)
    names = [way.name for way in result.ways]
    assert len(names) == len(set(names)) >= 2
    assert any(name.startswith("torch.") for name in names)
    fallback = next(way for way in result.ways if way.name.startswith("torch."))
    assert result.best.rows_per_s > 2 * fallback.rows_per_s  # it unpacks the weight in each call
    assert "128" in result.title


def test_a_leak_is_told():
    check = Profiler(Leaky(20_000)).check_leaks(torch.ones(1, 3), calls=640)
    assert check.is_leaking
    assert 15_000 < check.bytes_per_call < 30_000
    assert check.grown_bytes > 640 * 15_000
    assert "leaks" in check.display()


def test_a_model_without_a_leak_is_cleared():
    check = Profiler(Leaky(0)).check_leaks(torch.ones(1, 3), calls=3200)
    assert not check.is_leaking
    assert "no leak" in check.display()
    check = Profiler(packed(256, 256)).check_leaks(torch.ones(3, 256), calls=3200)
    assert not check.is_leaking


def test_what_was_frozen_stays_so():
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        Profiler(Leaky(0)).check_leaks(torch.ones(1, 3), calls=64)
        assert gc.get_freeze_count() > 0.99 * count > 0  # some of them are freed meanwhile
    finally:
        gc.unfreeze()
    Profiler(Leaky(0)).check_leaks(torch.ones(1, 3), calls=64)
    assert gc.get_freeze_count() < FROZEN_BY_PYTHON < count


def test_a_jump_is_no_leak():
    samples = [(number, 10_000_000 if number > 12 else 0) for number in range(33)]
    assert robust_slope(samples) == 0
    assert robust_slope([(number, 300 * number) for number in range(33)]) == 300


def test_leaks_cannot_be_found_where_the_system_tells_nothing(monkeypatch):
    monkeypatch.setattr(leaks, "resident_bytes", lambda: None)
    with pytest.raises(BitNetError, match="does not tell"):
        Profiler(Leaky(0)).check_leaks(torch.ones(1, 3))


def test_staging_is_compared_size_by_size():
    results = compare_staging("cpu", [1, 2**20])
    assert [way.rows for way in results[1].ways] == [256, 256]
    assert results[1].title == "1,048,576 bytes"
    assert results[1].ways[0].p50_ms > results[0].ways[0].p50_ms


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_large_tensors_are_faster_by_staging_buffers():
    (result,) = compare_staging("cuda", [2**26])
    print(result.display())  # noqa: T201
    assert result.best.name == "staged"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: Profiler(lambda x: x), "module: expected a torch.nn.Module"),
        (lambda p: Profiler(nn.Dropout()), "training mode"),
        (lambda p: p.latency(torch.ones(1, 3), calls=0), "calls: .* got 0"),
        (lambda p: p.latency("x"), "x: expected a tensor"),
        (lambda p: p.hot_modules(torch.ones(1, 3), calls=-1), "calls"),
        (lambda p: p.hot_ops(rows=True), "rows"),
        (lambda p: p.sweep(torch.ones(3)), r"x: expected a tensor \(rows, ...\)"),
        (lambda p: p.sweep(torch.ones(0, 3)), "x: "),
        (lambda p: p.sweep(torch.ones(1, 3), sizes=[]), "sizes: expected a list"),
        (lambda p: p.sweep(torch.ones(1, 3), sizes=[4, 0]), r"sizes\[1\]: .* got 0"),
        (lambda p: p.compare_threads(torch.ones(1, 3), [1, "2"]), r"numbers\[1\]"),
        (lambda p: p.check_leaks(torch.ones(1, 3), calls=10), "calls: .* 64, got 10"),
        (lambda p: p.check_leaks(torch.ones(1, 3), max_bytes_per_call=float("nan")), "max_bytes_per_call"),
        (lambda p: Profiler.phases(lambda: 7, torch.ones(1, 3)), "module"),
    ],
)
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(InvalidInput, match=words):
        call(Profiler(nn.Linear(3, 3)))
