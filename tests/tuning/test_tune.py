"""Tuning a problem: right answers alone compete, the fastest is found, and what is stored is what runs next."""

import dataclasses
import logging
import time

import pytest
import torch

from bitnet_jit.devices import kinds
from bitnet_jit.devices.cpu import CPU
from bitnet_jit.kernels import registry
from bitnet_jit.nn import PackedBitLinear
from bitnet_jit.ops import calls
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import TuningCache, recall
from bitnet_jit.runtime.dispatcher import Dispatcher
from bitnet_jit.tuning import contenders, synthetic
from bitnet_jit.tuning import tune as tuning
from bitnet_jit.tuning.synthetic import argument_sets

LAYOUT = registry.preferred_layout("i2", "cpu").name
LINEAR = Problem("bit_linear", "cpu", 4, 64, 96, LAYOUT, "a8", scale="tensor")
HEAD = Problem("head_logits", "cpu", 4, 40, 16, scale="row", w_dtype="int8", device="none such")
PROBLEMS = {
    "a layer": LINEAR,
    "a layer with a bias": dataclasses.replace(LINEAR, scale="row", bias="float32"),
    "a layer with groups": dataclasses.replace(LINEAR, scale="group", group_size=32),
    "a layer of bfloat16": dataclasses.replace(LINEAR, x_dtype="bfloat16", y_dtype="bfloat16"),
    "float activations": dataclasses.replace(LINEAR, activation="a16"),
    "codes": dataclasses.replace(LINEAR, op="quantized_linear", x_dtype="int8"),
    "integers": dataclasses.replace(LINEAR, op="ternary_matmul", x_dtype="int8", y_dtype="int32", scale=""),
    "a gradient": dataclasses.replace(LINEAR, op="bit_linear_input_grad", activation=""),
    "a quantizer": Problem("quantize_activation", "cpu", 4, 96, 96, y_dtype="int8"),
    "a norm": Problem("rms_norm", "cpu", 4, 96, 96, bias="float32"),
    "a norm of bfloat16": Problem("rms_norm_quantize", "cpu", 4, 96, 96, "", "", "bfloat16", "int8", bias="bfloat16"),
    "squares": Problem("relu2_mul_norm_quantize", "cpu", 4, 96, 96, y_dtype="int8", bias="float32"),
    "a sum and its norm": Problem("add_rms_norm", "cpu", 4, 96, 96, bias="float32"),
    "a rotation": Problem("hadamard", "cpu", 4, 96, 96, bias="float32", block=32),
    "a rotation behind a norm": Problem("add_rms_norm_hadamard", "cpu", 4, 96, 96, bias="float32", block=32),
    "gates without a norm": Problem("silu_mul_norm_quantize", "cpu", 4, 96, 96, y_dtype="int8"),
}


@pytest.fixture
def quick(monkeypatch):
    """The least time that a search can take."""
    least = dataclasses.replace(tuning.EFFORTS["quick"], first=0.0, second=0.0, last=0.0)
    monkeypatch.setitem(tuning.EFFORTS, "quick", least)
    monkeypatch.setattr("bitnet_jit.tuning.search.STEADY", 1000.0)
    monkeypatch.setattr("bitnet_jit.tuning.search.CLEAR", 1000.0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_op_is_tuned_with_kernels_that_agree(quick, caplog, name):
    problem = PROBLEMS[name]
    tuned = tuning.tune(problem)
    fitting, _ = registry.candidates(problem)
    kernel, config = recall(tuned, problem, fitting)
    assert config in kernel.configs(problem)
    assert 0 < tuned.microseconds < 1e6
    assert "otherwise" not in caplog.text


def test_what_is_stored_is_what_runs_next(quick, tmp_path):
    kept = TuningCache(tmp_path)
    tuned = tuning.tune(LINEAR)
    kept.store(LINEAR, tuned)
    choice = Dispatcher(kept).choose(LINEAR)
    assert (choice.kernel.name, choice.tuned) == (tuned.kernel, tuned)


def test_what_is_tuned_meanwhile_runs_once_the_old_choices_are_forgotten(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(calls, "DISPATCHER", Dispatcher(TuningCache(tmp_path)))
    codes, scale = torch.ones(64, 96, dtype=torch.int8), torch.tensor(0.5)
    layer, x = PackedBitLinear.from_codes(codes, scale), torch.randn(4, 96)
    y = layer(x)
    (problem,) = (problem for problem in calls.DISPATCHER.problems() if problem.op == "bit_linear")
    assert calls.DISPATCHER.choose(problem).tuned is None
    calls.DISPATCHER.cache.store(problem, tuning.tune(problem))
    assert torch.equal(layer(x), y)
    assert calls.DISPATCHER.choose(problem).tuned is None
    calls.forget()
    assert torch.equal(layer(x), y)
    assert calls.DISPATCHER.choose(problem).tuned is not None


def slow(name, milliseconds, answer):
    """A contender that answers as it is told, after a while."""

    def call(*arguments):
        time.sleep(milliseconds / 1e3)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return contenders.Contender(dataclasses.replace(KERNEL, name=name), None, call)


KERNEL = next(registry.kernels("bit_linear"))
RIGHT = torch.ones(4, 64)


def test_a_faster_contender_is_found_and_a_wrong_one_reported(monkeypatch, caplog):
    wrong = RIGHT.clone()
    wrong[2, 3] += 1e-6
    error = RuntimeError("out of shared memory")
    answers = {"default": (4.0, RIGHT), "wrong": (0.1, wrong), "cannot": (0.1, error), "best": (2.0, RIGHT.clone())}
    monkeypatch.setattr(contenders, "bind", lambda problem, contender, device: contender)
    with caplog.at_level(logging.INFO, "bitnet_jit"):
        tuned = tuning.tune(LINEAR, among=[slow(name, *told) for name, told in answers.items()])
    assert tuned.kernel == "best"
    assert tuned.microseconds < tuned.default_microseconds
    assert "wrong answers bit_linear" in caplog.text
    assert "cannot cannot run bit_linear" in caplog.text
    assert "out of shared memory" in caplog.text
    assert "best" not in caplog.text


def test_sums_of_floats_may_differ_a_little():
    a16 = dataclasses.replace(LINEAR, activation="a16")
    assert contenders.agree(a16, [RIGHT * 1.001], [RIGHT])
    assert not contenders.agree(a16, [RIGHT * 1.1], [RIGHT])
    assert not contenders.agree(a16, [RIGHT * float("nan")], [RIGHT])
    assert not contenders.agree(LINEAR, [RIGHT * 1.001], [RIGHT])


def test_a_busy_machine_finds_nothing(monkeypatch):
    monkeypatch.setattr(tuning, "search", lambda *arguments: None)
    assert tuning.tune(LINEAR) is None


@pytest.mark.parametrize(("problem", "name"), [(LINEAR, "w_packed"), (HEAD, "head")], ids=["layer", "head"])
def test_few_rows_find_their_weights_in_memory(monkeypatch, problem, name):
    monkeypatch.setattr(synthetic, "COLD_BYTES", 64 * 96 if problem is LINEAR else 4 * 40 * 16)
    sets = argument_sets(problem, torch.device("cpu"))
    place = OPS[problem.op].spec.operands.index(name)
    weights = [result[place] for result in sets]
    assert len({weight.data_ptr() for weight in weights}) == len(weights) >= 4
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert all(result[0] is sets[0][0] for result in sets)
    assert len(argument_sets(dataclasses.replace(problem, rows=32), torch.device("cpu"))) == 1


def test_kernels_in_plain_torch_compete_where_there_is_nothing_else(monkeypatch):
    names = {result.kernel.name.partition(".")[0] for result in contenders.contenders(LINEAR)}
    assert "torch" not in names
    only = [kernel for kernel in registry.candidates(LINEAR)[0] if kernel.name.startswith("torch.")]
    monkeypatch.setattr(registry, "candidates", lambda problem: (only, {}))
    assert [result.kernel for result in contenders.contenders(LINEAR)] == only


def ask(monkeypatch, tmp_path, value):
    """The choice of a layer's problem when the variable has a value, and how often it was tuned."""
    monkeypatch.setenv("BITNET_JIT_AUTOTUNE", value)
    monkeypatch.setattr(calls, "DISPATCHER", Dispatcher(TuningCache(tmp_path)))
    calls.forget()
    times = []
    best = tuning.Tuned("numba.bit_linear", 1, {}, 1.0, 2.0)
    monkeypatch.setattr(tuning, "tune", lambda problem, device: times.append(problem) or best)
    layer, x = PackedBitLinear.from_codes(torch.ones(64, 96, dtype=torch.int8), torch.tensor(0.5)), torch.ones(4, 96)
    y = layer(x)
    assert torch.equal(layer(x), y)
    return len(times), calls.DISPATCHER.cache


def test_nothing_is_tuned_in_a_forward_unless_asked_for(monkeypatch, tmp_path):
    times, cache = ask(monkeypatch, tmp_path, "0")
    assert times == 0
    assert not list(cache.folder.iterdir())


def test_a_problem_is_tuned_once_when_it_is_first_asked_for(monkeypatch, tmp_path):
    times, cache = ask(monkeypatch, tmp_path, "1")
    assert times == 1
    assert len(list(cache.folder.glob("*.json"))) == 1
    calls.forget()


def test_nothing_is_tuned_while_a_graph_is_captured(monkeypatch, tmp_path):
    monkeypatch.setitem(kinds.KINDS, "cpu", dataclasses.replace(CPU, is_capturing=lambda: True))
    assert ask(monkeypatch, tmp_path, "1")[0] == 0
    calls.forget()
