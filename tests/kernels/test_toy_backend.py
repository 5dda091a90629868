"""A backend that is registered from outside is dispatched, tuned, explained, listed and tested like those of ours."""

import logging

import pytest
import torch
from toy_backend import TOY
from typer.testing import CliRunner

import bitnet_jit
from bitnet_jit.cli.app import app
from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls, eager
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.conformance import check, kernels_with_problems
from bitnet_jit.tuning.tune import tune

QUANTIZE = Problem("quantize_activation", "cpu", 4, 64, 64, x_dtype="float32", y_dtype="int8")


@pytest.fixture
def toy():
    """Register the toy backend, and forget what was chosen before."""
    registry.register(TOY)
    calls.forget()
    yield TOY
    registry.unregister("toy")
    calls.forget()


@pytest.fixture
def alone(toy, monkeypatch):
    """Leave no other backend."""
    for name in set(registry.BACKENDS) - {"toy"}:
        monkeypatch.delitem(registry.BACKENDS, name)
    calls.forget()
    return toy


def test_it_is_asked_last(toy):
    fitting, _ = registry.candidates(QUANTIZE)
    assert [kernel.name for kernel in fitting][-1] == "toy.quantize_activation"


def test_it_is_dispatched_where_nobody_else_serves(alone):
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    codes, scale = eager("quantize_activation")(x)
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert torch.equal(scale, torch.tensor([2.0, 1e-5]) / 127)
    assert {choice.kernel.backend for choice in map(calls.DISPATCHER.choose, calls.DISPATCHER.problems())} == {"toy"}


def test_its_refusals_are_listed(alone):
    with pytest.raises(bitnet_jit.UnsupportedProblem, match=r"toy\.quantize_activation: NumPy has no bfloat16"):
        eager("quantize_activation")(torch.ones(1, 4, dtype=torch.bfloat16))


def test_it_is_tuned(alone):
    assert tune(QUANTIZE).kernel == "toy.quantize_activation"


def test_it_competes_with_the_others(toy, caplog):
    with caplog.at_level(logging.INFO, "bitnet_jit"):
        tuned = tune(QUANTIZE)
    assert tuned is None or tuned.kernel in {kernel.name for kernel in registry.kernels("quantize_activation")}
    assert "toy.quantize_activation answers" not in caplog.text


def test_it_is_explained(alone):
    (explanation,) = bitnet_jit.explain(QUANTIZE)
    assert "toy.quantize_activation" in str(explanation)
    assert explanation.microseconds > 0


def test_it_is_listed_by_info(toy):
    text = CliRunner().invoke(app, ["info"]).stdout
    assert "backend toy\n  on cpu                   usable\n  numpy " in text


def test_it_is_covered_by_the_conformance_suite(toy):
    (problems,) = [problems for kernel, problems in kernels_with_problems("cpu") if kernel.backend == "toy"]
    assert {problem.x_dtype for problem in problems} == {"float32", "float16"}
    for problem in problems:
        check(TOY.kernels()[0], problem, torch.device("cpu"))
