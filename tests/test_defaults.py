"""torch.set_default_device and torch.set_default_dtype change nothing that this package computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bitnet_jit

pytest.importorskip("torch")

WORKER = Path(__file__).with_name("defaults_worker.py")


def computed(device, dtype, folder):
    """Return the results of a process with such defaults, by the names of the package's main paths."""
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(bitnet_jit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, WORKER, device, dtype, folder]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return computed("none", "float32", tmp_path_factory.mktemp("usual") / "folder")


@pytest.mark.parametrize(("device", "dtype"), [("meta", "float64"), ("meta", "bfloat16")])
def test_defaults_change_no_number(usual, tmp_path, device, dtype):
    results = computed(device, dtype, tmp_path / "folder")
    assert results == usual
