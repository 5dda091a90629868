"""Tuning on a GPU: by CUDA graphs, with the answers checked, and what is found runs."""

from dataclasses import replace

import pytest
import torch

import bitnet_jit
from bitnet_jit.devices import graphs
from bitnet_jit.ops import calls
from bitnet_jit.runtime.cache import TuningCache
from bitnet_jit.runtime.dispatcher import Dispatcher
from bitnet_jit.tuning.synthetic import argument_sets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(calls, "DISPATCHER", Dispatcher(TuningCache(tmp_path)))
    calls.forget()
    yield calls.DISPATCHER.cache
    calls.forget()


def test_layers_are_tuned_and_answer_as_before(cache):
    codes = torch.randint(-1, 2, (512, 1024), dtype=torch.int8)
    layer = bitnet_jit.PackedBitLinear.from_codes(codes, torch.tensor(0.5)).to("cuda")
    inputs = [torch.randn(rows, 1024, device="cuda", dtype=torch.bfloat16) for rows in (1, 8, 64)]
    before = [layer(x) for x in inputs]
    report = bitnet_jit.autotune(layer.bfloat16(), (1, 8, 64), progress=False)
    assert [outcome.problem.device_type for outcome in report.outcomes] == ["cuda"] * 3
    assert sum(outcome.state == "tuned" for outcome in report.outcomes) >= 2
    assert all(torch.equal(layer(x), y) for x, y in zip(inputs, before, strict=True))
    again = bitnet_jit.autotune(layer, (1, 8, 64), progress=False)
    assert sum(outcome.state == "known" for outcome in again.outcomes) >= 2


def test_graphs_hold_all_copies_and_tell_the_time_of_one_call():
    copies = [torch.ones(1 << 24, device="cuda") for _ in range(3)]
    seen = []

    def run(number):
        seen.append(number)
        copies[number].mul_(1.0)

    run(0)
    captured = graphs.capture(run, len(copies))
    assert captured.calls % 3 == 0
    assert set(seen[-captured.calls :]) == {0, 1, 2}
    times = graphs.in_turns([captured, captured], 0.001)
    microseconds = min(min(one) for one in times)
    assert (1 << 27) / 8e6 < microseconds < 1e4  # no GPU moves 8 TB/s
    assert all(len(one) >= graphs.TURNS for one in times)


def test_cold_copies_are_more_than_the_second_cache_holds(cache):
    layer = bitnet_jit.PackedBitLinear(2560, 6912, bias=False, device="cuda")
    with torch.no_grad():
        layer(torch.ones(1, 2560, device="cuda", dtype=torch.bfloat16))
    problem = replace(calls.DISPATCHER.problems()[0], rows=1)
    sets = argument_sets(problem, torch.device("cuda"))
    num_bytes = sum(arguments[1].nbytes for arguments in sets)
    assert num_bytes > torch.cuda.get_device_properties(0).L2_cache_size
