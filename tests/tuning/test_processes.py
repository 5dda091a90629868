"""Several processes that tune the same at once: nothing is tuned twice, and all know everything afterwards."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from bitnet_jit.runtime.cache import TuningCache

PROCESSES, PROBLEMS = 4, 6
SCRIPT = """
import dataclasses, time
import bitnet_jit
from bitnet_jit.runtime.cache import config_fields
from bitnet_jit.runtime.entries import Tuned
from bitnet_jit.tuning import autotune as module

def tune(problem, effort, device, among):
    time.sleep(0.1)
    one = among[0]
    return Tuned(one.kernel.name, one.kernel.version, config_fields(one.config), 1.0, 1.0, effort=effort)

module.tune = tune
report = bitnet_jit.autotune([(64, 96), (32, 96)], rows=(1, 2, 4), device="cpu", progress=False)
print(*(outcome.state for outcome in report.outcomes))
"""


@pytest.mark.slow
def test_processes_that_tune_the_same_share_the_work(tmp_path):
    environ = os.environ | {"BITNET_JIT_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) for _ in range(PROCESSES)]
    states = Counter(state for process in running for state in process.communicate(timeout=300)[0].split())
    assert [process.returncode for process in running] == [0] * PROCESSES
    assert states == {"tuned": PROBLEMS, "known": (PROCESSES - 1) * PROBLEMS}
    folder = TuningCache(tmp_path / "tuned").folder
    assert len(list(folder.glob("*.json"))) == PROBLEMS
    assert not list(folder.glob(".*"))
