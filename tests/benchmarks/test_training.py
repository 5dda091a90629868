"""The suite of training: results that are checked, clocks that settle, and layers that share an input."""

import argparse
import json

import pytest
import torch

from benchmarks.suites.training import measure
from benchmarks.suites.training.block import BlockWork, parse_block, peers
from benchmarks.suites.training.run import run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what transformers compiles its quantizers by
def test_training_is_checked_and_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "TURNS", 1)
    files = tmp_path / "figures.json", tmp_path / "figures.png"
    arguments = ["--device", "cpu", "--shapes", "32x48+8x48,48x32", "--rows", "20", "--ways", "eager", "--threads", "1"]
    with torch.compiler.set_stance("force_eager"):  # transformers compiles its quantizers
        rows = run([*arguments, "--json", str(files[0]), "--picture", str(files[1])])
    assert {row.layer for row in rows} >= {"nn.Linear", "BitLinear"}
    for row in rows:
        assert row.failed == ""
        assert 0 < row.min_us <= row.median_us
        assert row.error < 0.02
    assert json.loads(files[0].read_text())["layers"][0]["layer"] == "nn.Linear"
    assert files[1].stat().st_size > 1000


def test_a_turn_on_a_gpu_counts_the_steps_after_the_clock_has_settled(monkeypatch):
    counts, steps = [], []

    def timed(call, times):
        counts.append(times)
        return [10_000.0 + len(counts)] * times

    monkeypatch.setattr(measure.graphs, "timed", timed)
    monkeypatch.setattr(measure.gpu, "clock_mhz", lambda: 1500)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    times = measure.in_turns({"a": lambda: steps.append(1)}, "cuda", 0.5)
    assert counts == [4, 30, 50] * measure.GPU_TURNS
    assert len(steps) == 4 * measure.GPU_TURNS  # while the clock is asked for
    assert times == {"a": {"median_us": 10_009.0, "min_us": 10_003.0, "clock_mhz": 1500}}


def test_a_layer_that_computes_something_else_is_not_timed():
    work = BlockWork(parse_block("32x48"), 20, torch.float32, "cpu")
    step = work.step(peers("cpu")["nn.Linear"], torch.float32)
    with pytest.raises(AssertionError, match="a result is off by 0"):
        work.check(step(), ternary=True, weight_dtype=torch.float32)


def test_layers_of_other_widths_share_no_input():
    with pytest.raises(argparse.ArgumentTypeError, match=r"have one width, got 8x16\+8x32"):
        parse_block("8x16+8x32")
