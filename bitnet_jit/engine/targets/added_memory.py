"""The memory that an engine adds to a process that has imported torch and Numba, before it holds a model."""

import os
import subprocess
import sys
from pathlib import Path

import bitnet_jit
from bitnet_jit.engine.targets.target import Target

LIMIT = 50.0  # 10^6 bytes
SECONDS = 120.0  # for the process, most of which are imports
PROGRAM = """
import numba, torch
from pathlib import Path

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

before = resident()
from bitnet_jit.engine import InferenceEngine
with InferenceEngine() as engine:
    print(resident() - before)
"""


def measure_added_memory() -> Target:
    """Measure in a process of its own, whose memory nothing else has touched; Linux alone tells."""
    added = added_bytes()
    how = "resident memory of a new process: InferenceEngine() over import torch, numba"
    return Target("memory", LIMIT, "MB", False, None if added is None else max(0, added) / 1e6, how)


def added_bytes() -> int | None:
    """Return the bytes that an engine adds; None where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return None
    folders = [str(Path(bitnet_jit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True)
    return int(done.stdout)
