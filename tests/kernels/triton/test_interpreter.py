"""The conformance tests once more, in Triton's interpreter: it runs the kernels on the CPU, without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

FILES = ("linear", "floats", "rows")


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
