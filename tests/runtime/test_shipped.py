"""Choices that come with the package: they hold where the user has none, and every one of them names a kernel."""

import json
from dataclasses import replace

import pytest

from bitnet_jit.devices import cpu
from bitnet_jit.kernels import registry
from bitnet_jit.problem import Gpu, Problem
from bitnet_jit.runtime import shipped
from bitnet_jit.runtime.cache import TuningCache, config_fields, recall
from bitnet_jit.runtime.dispatcher import Dispatcher
from bitnet_jit.runtime.entries import Tuned, parse_entry

H200 = Gpu("NVIDIA H200", "9.0", 132, 232448)
LAYER = Problem("bit_linear", "cpu", 4, 64, 96, "i2/n64k16", "a8", scale="tensor", device="some cpu")
TABLES = sorted(shipped.FOLDER.glob("*.json"))


@pytest.fixture
def own_tables(monkeypatch, tmp_path):
    """A folder for tables, none in it."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    shipped.table.cache_clear()
    yield tmp_path
    shipped.table.cache_clear()


def choices():
    """Two configs of the layer's first kernel."""
    kernel = registry.candidates(LAYER)[0][0]
    configs = kernel.all_configs(LAYER)
    return [Tuned(kernel.name, kernel.version, config_fields(config), 1.0, 2.0) for config in configs[:2]]


def write_table(folder, tuned):
    from bitnet_jit.runtime.transfer import export_tuned

    cache = TuningCache(folder / "cache")
    cache.store(LAYER, tuned)
    export_tuned(cache, folder / f"{shipped.table_name(LAYER)}.json")


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_every_shipped_choice_is_whole(table):
    entries = [parse_entry(entry) for entry in json.loads(table.read_text())["entries"]]
    assert entries
    assert all(tuned.origin == "measured" for _, tuned in entries)
    keys = [json.dumps(key["problem"], sort_keys=True) for key, _ in entries]
    assert len(set(keys)) == len(keys)


def test_every_choice_for_the_h200_names_a_kernel_and_a_config_of_today():
    pytest.importorskip("triton", reason="the package triton is not installed")
    entries = [parse_entry(one) for one in json.loads((shipped.FOLDER / "nvidia-h200.json").read_text())["entries"]]
    for key, tuned in entries:
        problem = Problem(**key["problem"], device="", gpu=H200)
        recall(tuned, problem, registry.candidates(problem)[0])
        assert shipped.find_shipped(problem) == replace(tuned, origin="shipped")


def test_the_users_choice_comes_before_ours(own_tables, tmp_path):
    ours, users = choices()
    write_table(own_tables, ours)
    cache = TuningCache(tmp_path / "tuned")
    choice = Dispatcher(cache).choose(LAYER)
    assert choice.tuned == replace(ours, origin="shipped")
    cache.store(LAYER, users)
    assert Dispatcher(cache).choose(LAYER).tuned == users
    cache.store(LAYER, replace(users, version=99))  # does not hold any more
    assert Dispatcher(cache).choose(LAYER).tuned == choice.tuned


def test_a_device_without_a_table_runs_what_is_likely(own_tables, tmp_path):
    assert shipped.find_shipped(replace(LAYER, device_type="cuda", gpu=replace(H200, name="Another GPU"))) is None
    assert Dispatcher(TuningCache(tmp_path / "tuned")).choose(LAYER).tuned is None


def test_tables_are_named_by_kinds_of_devices(monkeypatch):
    assert shipped.table_name(replace(LAYER, device_type="cuda", gpu=H200)) == "nvidia-h200"
    assert shipped.table_name(replace(LAYER, device_type="mps")) == "mps"
    for features, name in (
        (("avx2", "avx512_vnni", "amx_int8"), "cpu-amx_int8"),
        (("avx2", "avx512bw", "avx512_vnni"), "cpu-avx512_vnni"),
        (("avx2",), "cpu-avx2"),
        ((), "cpu-generic"),
    ):
        monkeypatch.setattr(cpu, "cpu_features", lambda features=features: features)
        assert shipped.table_name(LAYER) == name


def test_a_damaged_table_is_passed_over_and_the_log_says_so(own_tables, tmp_path, caplog):
    file = own_tables / f"{shipped.table_name(LAYER)}.json"
    for content in ("", "{}", "[" * 100_000, '{"format": 2, "entries": [1]}', '{"format": 2, "entries": {}}'):
        file.write_text(content)
        shipped.table.cache_clear()
        assert Dispatcher(TuningCache(tmp_path / "tuned")).choose(LAYER).tuned is None
        assert f"{file} is passed over" in caplog.text
        caplog.clear()
