"""In Triton's interpreter, which runs kernels on the CPU: the conformance tests once more, and a whole decoder."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

HALVES = {
    "gemv": ("linear",),
    "not gemv": (
        "linear",
        "floats",
        "rows",
        "weights",
        "norm_gradients",
        "norm_gemv",
        "tokens",
        "hadamard",
        "delta_net",
    ),
}


def check_suite(profile, names="test"):
    """Run the conformance tests of such names in the interpreter; each half of them keeps one core busy."""
    halves = [f"({half}) and {names}" for half in HALVES]
    with ThreadPoolExecutor(len(HALVES)) as pool:
        for done in pool.map(run_suite, halves, HALVES.values(), repeat(profile)):
            assert done.returncode == 0, done.stdout[-4000:]
            assert "passed" in done.stdout
            assert "TRITON_INTERPRET is not set" not in done.stdout, done.stdout[-2000:]


def run_suite(names, files, profile):
    """Run pytest in the interpreter on the tests of such names in files of this folder."""
    paths = [str(Path(__file__).with_name(f"test_{file}.py")) for file in files]
    arguments = ("-q", "-p", "no:cacheprovider", "--hypothesis-profile", profile)
    return in_interpreter("-m", "pytest", *arguments, *paths, "-k", names)


def in_interpreter(*arguments):
    """Run Python with kernels in the interpreter."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_the_suite_passes_in_the_interpreter():
    # few examples of each kernel, see conftest.py; long rows by one op of each algorithm; operands with gaps by one
    # width, as the interpreter does not know of aligned addresses
    check_suite("interpreter", "not (hundred_thousand_inputs and (not bit_linear or chunks)) and not (gaps and 260)")


@pytest.mark.exhaustive
def test_the_suite_passes_in_the_interpreter_with_many_examples():
    check_suite("quick")


ON_TRITON_ALONE = """
from dataclasses import replace
import torch, bitnet_jit
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import DISPATCHER, forget

def on_triton_alone():
    forget()
    DISPATCHER._choices.clear()
    triton = registry.BACKENDS.pop("triton")
    registry.register(replace(triton, device_types=("cpu",)))
    registry.unregister("numba")

def backends():
    return {choice.kernel.name.partition(".")[0] for choice in DISPATCHER._choices.values()}
"""

DECODER = """
from bitnet_jit.checkpoints.embedded import embedded_model

ids = torch.tensor([list(b"And it")] * 2)
expected = bitnet_jit.load(embedded_model())(ids)
on_triton_alone()
decoder = bitnet_jit.load(embedded_model())
difference = (decoder(ids) - expected).abs()
print(backends())
print(difference.mean().item() < 0.1, difference.max().item() < 0.6)
"""


@pytest.mark.slow
def test_a_decoder_runs_on_these_kernels_alone():
    done = in_interpreter("-c", ON_TRITON_ALONE + DECODER)
    assert done.stdout.splitlines() == ["{'triton'}", "True True"], done.stderr[-2000:]


TRAINING = """
def trained(in_features, rows):
    generator = torch.Generator().manual_seed(in_features + rows)
    shapes = (rows, in_features), (40, in_features), (rows, 40)
    x, w, dy = (torch.randn(*shape, generator=generator) for shape in shapes)
    x, w = x.requires_grad_(), w.requires_grad_()
    y = torch.ops.bitnet_jit.bit_linear_train(x, w, None, None, 0.0)
    return y.detach(), *torch.autograd.grad(y, (x, w), dy)

sizes = [(in_features, rows) for in_features in (256, 272, 300) for rows in (1, 20, 140)]
expected = [trained(*size) for size in sizes]
on_triton_alone()
for wanted, (y, *gradients) in zip(expected, (trained(*size) for size in sizes)):
    assert torch.equal(wanted[0], y)
    torch.testing.assert_close(gradients, list(wanted[1:]), rtol=1e-5, atol=1e-4)
print(backends(), registry.training_layout("cpu").name)
"""


@pytest.mark.slow
def test_a_layer_trains_on_these_kernels_alone():
    done = in_interpreter("-c", ON_TRITON_ALONE + TRAINING)
    assert done.stdout == "{'triton'} i2/chunks\n", done.stderr[-2000:]
