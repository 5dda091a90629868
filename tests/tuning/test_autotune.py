"""`autotune`: everything is tuned once, the most valuable first; what is done is kept, whatever ends it."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops import calls
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import TuningCache, config_fields
from bitnet_jit.runtime.dispatcher import Dispatcher
from bitnet_jit.runtime.entries import Tuned
from bitnet_jit.tuning import autotune as module
from bitnet_jit.tuning.report import Outcome, Report

SHAPES = [(64, 96), (4096, 1024), (128, 96)]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache."""
    actual = TuningCache(tmp_path / "tuned")
    monkeypatch.setattr(calls, "DISPATCHER", Dispatcher(actual))
    return actual


@pytest.fixture
def tuned(monkeypatch, cache):
    """The problems that were tuned, in order: nothing is compiled or timed."""
    asked = []

    def tune(problem, effort, device, among):
        asked.append(problem)
        first = among[0]
        config = config_fields(first.config)
        return Tuned(first.kernel.name, first.kernel.version, config, 1.0, 2.0, effort=effort)

    monkeypatch.setattr(module, "tune", tune)
    monkeypatch.setattr(module.Compilers, "submit", lambda self, job: Done(None))
    return asked


class Done:
    """A compilation that is over."""

    def __init__(self, reason):
        self.reason = reason

    def result(self):
        return self.reason


def autotune(**options):
    return bitnet_jit.autotune(SHAPES, **{"rows": (1, 4), "device": "cpu", "progress": False} | options)


def states(report):
    return [outcome.state for outcome in report.outcomes]


def test_all_is_tuned_once_the_most_valuable_first(tuned):
    report = autotune()
    assert states(report) == ["tuned"] * 6
    assert [outcome.problem for outcome in report.outcomes] == tuned
    assert {problem.out_features for problem in tuned[:2]} == {4096}
    assert sorted(states(autotune(rows=(1, 2, 3, 4, 4)))) == ["known"] * 6 + ["tuned"] * 3
    assert len(set(tuned)) == len(tuned) == 9


def test_what_was_found_runs_at_once_and_in_another_process(tuned, cache):
    layer, x = bitnet_jit.PackedBitLinear(96, 64, bias=False), torch.ones(1, 96)
    layer(x)
    (problem,) = calls.DISPATCHER.problems()
    assert calls.DISPATCHER.choose(problem).tuned is None
    autotune()
    layer(x)
    assert calls.DISPATCHER.choose(problem).tuned.microseconds == 1.0
    assert Dispatcher(TuningCache(cache.folder)).choose(problem).tuned.microseconds == 1.0


def test_after_ctrl_c_a_second_call_goes_on(tuned, monkeypatch):
    tune, done = module.tune, []

    def interrupted(problem, *others):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(problem)
        return tune(problem, *others)

    with monkeypatch.context() as patch:
        patch.setattr(module, "tune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            autotune()
    report = autotune()
    assert states(report) == ["known"] * 2 + ["tuned"] * 4
    assert len(tuned) == 6


def test_a_budget_is_kept_and_what_is_left_comes_next(tuned, monkeypatch):
    now = iter(range(100))
    # not the module's own monotonic: servers that run beside, in threads, would read it, too
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    report = autotune(budget_seconds=4)
    assert states(report)[0] == "tuned"
    assert states(report)[-1] == "left"
    monkeypatch.undo()


def test_no_budget_at_all_tunes_nothing_and_says_so(tuned):
    report = autotune(budget_seconds=0)
    assert states(report) == ["left"] * 6
    assert tuned == []
    assert "6 left for want of time" in str(report)


def test_more_effort_looks_again_and_less_does_not(tuned):
    autotune(effort="quick")
    assert states(autotune(effort="full")) == ["tuned"] * 6
    assert states(autotune(effort="quick")) == ["known"] * 6


def test_what_no_longer_holds_is_tuned_again(tuned, cache):
    autotune()
    for problem in tuned[:2]:
        cache.store(problem, dataclasses.replace(cache.find(problem), version=99))
    assert sorted(states(autotune())) == ["known"] * 4 + ["tuned"] * 2


def test_a_busy_machine_leaves_problems_undecided_and_nothing_stored(tuned, monkeypatch, cache):
    monkeypatch.setattr(module, "tune", lambda *arguments: None)
    report = autotune()
    assert states(report) == ["undecided"] * 6
    assert "6 undecided" in str(report)
    assert not list(cache.folder.glob("*.json"))


def test_what_cannot_be_compiled_does_not_compete(tuned, monkeypatch, caplog):
    seen = []
    monkeypatch.setattr(module, "tune", lambda problem, effort, device, among: seen.append(among))
    autotune(rows=(4,))
    first = seen[0][0].config
    monkeypatch.setattr(module.Compilers, "submit", lambda self, job: Done("no memory" if job[2] == first else None))
    with caplog.at_level(logging.INFO, "bitnet_jit"):
        autotune(rows=(4,))
    assert [one.config for one in seen[3]] == [one.config for one in seen[0][1:]]
    assert "no memory" in caplog.text


def test_another_process_that_tunes_is_waited_for_no_longer_than_the_budget(tuned, cache):
    other = TuningCache(cache.folder)
    name = module.lock_name(next(iter(module.problems_of_shapes(SHAPES, [1], torch.device("cpu")))))
    with other.locked(name) as held:
        assert held
        assert states(autotune(budget_seconds=0.2)) == ["left"] * 6
    assert states(autotune()) == ["tuned"] * 6


def test_a_cache_folder_that_is_a_file_keeps_what_was_found_in_memory(tuned, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(calls, "DISPATCHER", Dispatcher(TuningCache(tmp_path / "file")))
    assert states(autotune()) == ["tuned"] * 6
    assert states(autotune()) == ["known"] * 6
    assert caplog.text.count("kept for this process only") == 1


def test_progress_is_shown_on_stderr_alone(tuned, capsys):
    autotune(progress=True)
    assert capsys.readouterr().out == ""


BAD = {
    "effort": ({"effort": "thorough"}, "effort: expected one of quick, full, got 'thorough'"),
    "a negative budget": ({"budget_seconds": -1}, "budget_seconds: expected a number of at least 0 or None, got -1"),
    "a budget that is no number": ({"budget_seconds": float("nan")}, "budget_seconds: .* got nan"),
    "rows of 0": ({"rows": (1, 0)}, r"rows: expected whole numbers of at least 1, got \(1, 0\)"),
    "no rows": ({"rows": ()}, r"rows: .* got \(\)"),
    "rows that are no list": ({"rows": 16}, "rows: .* got 16"),
    "a device that is not there": ({"device": "cuda:17"}, "device: 'cuda:17' cannot be used"),
    "no device": ({"device": "gpu"}, "device: 'gpu' cannot be used"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused_in_words(tuned, name):
    options, words = BAD[name]
    with pytest.raises(InvalidInput, match=words):
        autotune(**options)
    assert tuned == []


def test_a_model_and_its_device_must_agree(tuned):
    layer = bitnet_jit.PackedBitLinear(96, 64)
    assert states(bitnet_jit.autotune(layer, (1,), "cpu", progress=False)) == ["tuned"]
    with pytest.raises(InvalidInput, match="device: the model is on cpu, got meta"):
        bitnet_jit.autotune(layer, (1,), "meta", progress=False)
    with pytest.raises(InvalidInput, match="has no packed layer"):
        bitnet_jit.autotune(nn.Linear(4, 4), (1,), progress=False)


def test_a_report_tells_what_was_gained():
    problem = Problem("rms_norm", "cpu", 1, 8, 8)
    times = [(1.0, 3.0), (2.0, 2.0), (2.0, 3.0)]
    actual = [Outcome(problem, "tuned", Tuned("k", 1, {}, *pair)) for pair in times]
    text = str(Report((*actual, Outcome(problem, "left")), 1.25))
    assert "4 problems in 1.2 s: 3 tuned now; 1 left for want of time" in text
    assert "2 of 3 run faster than with the default config, in the median 2.25 times, at most 3.00" in text


@pytest.mark.slow
def test_a_real_tuning_of_a_small_model_is_known_afterwards(cache):
    layer = bitnet_jit.PackedBitLinear(96, 64)
    first = bitnet_jit.autotune(layer, (1, 8), progress=False)
    assert set(states(first)) <= {"tuned", "undecided"}
    second = bitnet_jit.autotune(layer, (1, 8), progress=False)
    assert states(first).count("tuned") <= states(second).count("known")
