"""`explain`: the kernel that runs, why, how long, and how near that is to what the device can do."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.numba import limits
from bitnet_jit.kernels.torch import limits as fallback_limits
from bitnet_jit.ops import calls
from bitnet_jit.runtime.cache import TuningCache, config_fields
from bitnet_jit.runtime.dispatcher import Dispatcher
from bitnet_jit.runtime.entries import Tuned
from bitnet_jit.tuning import explain as module
from bitnet_jit.tuning import roofline as measuring
from bitnet_jit.tuning.roofline import Roofline, roofline
from bitnet_jit.tuning.work import Work

LAYER = bitnet_jit.PackedBitLinear(96, 64, bias=False)
CPU = torch.device("cpu")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and a roofline that takes no time."""
    result = TuningCache(tmp_path / "tuned")
    monkeypatch.setattr(calls, "DISPATCHER", Dispatcher(result))
    monkeypatch.setattr(limits, "DOT4_STEPS", 100)
    monkeypatch.setattr(limits, "AMX_STEPS", 100)
    for backend in (limits, fallback_limits):
        monkeypatch.setattr(backend, "READ_BYTES", 1 << 16)
    measuring.measured.cache_clear()
    yield result
    measuring.measured.cache_clear()


def test_what_is_not_tuned_is_measured_now(cache):
    (result,) = bitnet_jit.explain(LAYER, 4)
    assert result.choice.problem.rows == 4
    assert 0 < result.microseconds < 1e6
    assert result.share == result.roofline.min_microseconds(result.work) / result.microseconds
    text = str(result)
    assert result.choice.kernel.name in text
    assert "nothing was tuned" in text
    assert "triton: serves cuda, not cpu" in text
    assert "roofline" in text
    assert not list(cache.folder.glob("*.json"))


def test_what_is_tuned_is_told_as_it_was_found(cache):
    (result,) = bitnet_jit.explain(LAYER)
    choice = result.choice
    tuned = Tuned(
        choice.kernel.name,
        choice.kernel.version,
        config_fields(choice.config),
        2.0,
        3.0,
        runner_up="another",
        runner_up_microseconds=2.5,
    )
    cache.store(choice.problem, tuned)
    calls.forget()
    (again,) = bitnet_jit.explain(choice.problem)
    assert again.microseconds == 2.0
    assert "measured, quick tuning: the default takes 3.0 us" in str(again)
    assert "another, 2.5 us" in str(again)
    default = dataclasses.replace(
        again, choice=dataclasses.replace(choice, tuned=dataclasses.replace(tuned, default_microseconds=2.0))
    )
    assert "it is the default" in default.why()


def test_each_problem_of_a_model_is_explained(cache):
    layers = nn.Sequential(LAYER, bitnet_jit.RMSNorm(64), bitnet_jit.PackedBitLinear(64, 96, bias=False))
    result = bitnet_jit.explain(layers, 2)
    assert [one.choice.problem.op for one in result] == ["bit_linear", "rms_norm", "bit_linear"]
    assert str(result).count("kernel ") == 3


def test_what_cannot_be_timed_has_no_time(cache, monkeypatch):
    def cannot(*arguments, **options):
        raise RuntimeError("a graph cannot hold this")

    monkeypatch.setattr(module, "tune", cannot)
    (result,) = bitnet_jit.explain(LAYER)
    assert result.microseconds is None
    assert result.share is None
    assert "time" not in str(result)


@pytest.mark.parametrize("rows", [0, -1, 1.5, True])
def test_rows_that_cannot_be_meant_are_refused(rows):
    with pytest.raises(InvalidInput, match=f"rows: expected a whole number.*{rows!r}"):
        bitnet_jit.explain(LAYER, rows)


def test_what_is_no_layer_is_refused():
    with pytest.raises(InvalidInput, match="layer_or_problem: expected a torch module or a Problem, got 'x'"):
        bitnet_jit.explain("x")
    with pytest.raises(InvalidInput, match="no packed layer"):
        bitnet_jit.explain(nn.Linear(2, 2))


def test_the_nearer_ceiling_is_the_bound():
    device = Roofline(bytes=1e9, operations=1e12)
    assert device.bound(Work(1000, 1000)) == "memory"
    assert device.min_microseconds(Work(1000, 1000)) == pytest.approx(1.0)
    assert device.bound(Work(1000, 10**7)) == "arithmetic"
    assert device.min_microseconds(Work(1000, 10**7)) == pytest.approx(10.0)
    assert Roofline(1e9, 0.0).bound(Work(1000, 10**9)) == "memory"


def test_rooflines_are_measured_once_and_kept(cache, monkeypatch):
    first = roofline(CPU)
    assert first.bytes > 1e6
    (file,) = cache.folder.parent.glob("roofline-cpu-*.json")
    measuring.measured.cache_clear()
    monkeypatch.setattr(measuring, "measure_rates", lambda device, threads: pytest.fail("it was known"))
    assert roofline(CPU) == first
    monkeypatch.setattr(measuring, "measure_rates", lambda device, threads: Roofline(1.0, 2.0))
    for damaged in ("{", "[]", '{"bytes": 0, "operations": 1}', '{"bytes": NaN, "operations": 1}', '{"bytes": 1}'):
        file.write_text(damaged)
        measuring.measured.cache_clear()
        assert roofline(CPU) == Roofline(1.0, 2.0)
        assert json.loads(file.read_text())["operations"] == 2.0


def test_rooflines_without_numba_or_a_place_to_keep_them(cache, monkeypatch, caplog):
    monkeypatch.delitem(registry.BACKENDS, "numba")
    cache.folder.parent.joinpath("tuned").write_text("a file")
    monkeypatch.setattr(
        measuring, "write_beside_and_rename", lambda file, content: (_ for _ in ()).throw(OSError("full"))
    )
    with caplog.at_level("INFO", "bitnet_jit"):
        result = roofline(CPU)
    assert result.bytes > 1e6
    assert result.operations == 0.0
    assert "cannot be written" in caplog.text
