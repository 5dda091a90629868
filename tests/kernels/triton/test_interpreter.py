"""In Triton's interpreter, which runs kernels on the CPU: the conformance tests once more, and a whole decoder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

FILES = ("linear", "floats", "rows", "norm_gradients")


@pytest.mark.slow
def test_the_suite_passes_in_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(Path(__file__).with_name(f"test_{name}.py")) for name in FILES),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    assert "TRITON_INTERPRET is not set" not in done.stdout, done.stdout[-2000:]


DECODER = """
import torch, bitnet_jit
from bitnet_jit.kernels import registry
from bitnet_jit.models.embedded import embedded_model
from bitnet_jit.ops.calls import DISPATCHER

ids = torch.tensor([list(b"And it")] * 2)
expected = bitnet_jit.load(embedded_model())(ids)
DISPATCHER._choices.clear()
registry.preferred_layout.cache_clear()
registry.BACKENDS["triton"] = registry.Entry(("triton",), ("cpu",))
del registry.BACKENDS["numba"]
decoder = bitnet_jit.load(embedded_model())
difference = (decoder(ids) - expected).abs()
print({choice.kernel.name.partition(".")[0] for choice in DISPATCHER._choices.values()})
print(difference.mean().item() < 0.1, difference.max().item() < 0.6)
"""


@pytest.mark.slow
def test_a_decoder_runs_on_these_kernels_alone():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", DECODER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines() == ["{'triton'}", "True True"], done.stderr[-2000:]
