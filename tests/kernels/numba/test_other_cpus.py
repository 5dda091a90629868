"""The same tests as if this CPU were a lesser one: Numba compiles for another name and features, in a new process."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bitnet_jit.kernels.numba.intrinsics.isa import machine, target_features

HERE = Path(__file__).parent
HASWELL = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2"
BASELINE = "+sse,+sse2"
CPUS = {"haswell": ("haswell", HASWELL, "avx2"), "baseline": ("x86-64", BASELINE, "generic")}
FILES = ("test_linear.py", "test_rows.py", "test_norm_gradients.py", "../../ops/test_weights.py")
LATER_FILES = (
    "test_groups.py",
    "test_head.py",
    "test_attention.py",
    "../../ops/test_delta_net.py",
)  # they compile for minutes
SUBSET = "exact or contract or norm or gives_back or reference_does"
WHOLE = f"{SUBSET} or bound or float_activations"


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_conformance_as_other_cpus(whole):
    """Each keeps one core busy, so they run side by side."""
    if machine() not in ("x86_64", "AMD64"):
        pytest.skip("this CPU cannot run code for x86")
    names = [name for name in CPUS if name != "haswell" or "avx2" in target_features()]
    with ThreadPoolExecutor(len(names)) as pool:
        for result in pool.map(partial(run_suite, whole=whole), names):
            assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def run_suite(name, whole):
    """Run pytest on the conformance tests as if on that CPU, one config per kernel."""
    cpu, features, isa = CPUS[name]
    environment = os.environ | {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "BITNET_JIT_TEST_CONFIGS": "first",
    }
    chosen = "from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa; print(chosen_isa().name)"
    child = subprocess.run([sys.executable, "-c", chosen], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == isa
    files = (*FILES, *LATER_FILES) if whole else FILES
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", WHOLE if whole else SUBSET, "-p", "no:cacheprovider"]
    command += [str(HERE / file) for file in files]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[2])
