"""The memory that an engine adds before it has a model: a target of the original, under 50 MB."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 50e6  # bytes, over `import torch, numba`
CHILD = """
import gc, json, sys
from pathlib import Path
import numba, torch

def resident():
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

before = resident()
from bitnet_jit.engine import InferenceEngine
engine = InferenceEngine()
usage = engine.memory_usage()
after = resident()
heavy = sorted({"jinja2", "fastapi", "transformers"} & sys.modules.keys())
print(json.dumps({"added": after - before, "weights": usage.weights, "resident": usage.resident, "heavy": heavy}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds")
def test_an_engine_without_models_takes_under_50_mb():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    figures = json.loads(child.stdout)
    assert figures["weights"] == 0
    assert figures["heavy"] == []
    assert figures["resident"] > 50e6  # torch is in it: the figure is no constant
    assert 0 < figures["added"] < LIMIT, figures
