"""Ctrl-C at any moment of a first call: KeyboardInterrupt every time, and the next call works.

Each trial is a child forked from a process that has imported torch and this package, and no more: its first call
imports the compilers, makes a layer, compiles or loads a kernel and runs it. `pytest -m exhaustive` has MANY_TRIALS of
each kind.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIALS = 4
MANY_TRIALS = 300
SCRIPT = """
import os, random, signal, sys, tempfile, time
import torch, bitnet_jit
bitnet_jit.PackedBitLinear  # imported: only a first call is tried
trials, warm = int(sys.argv[1]), sys.argv[2] == "warm"
codes, x = torch.ones(64, 64, dtype=torch.int8), torch.ones(2, 64)

def first_call():
    layer = bitnet_jit.PackedBitLinear.from_codes(codes, torch.tensor(1.0))
    return layer(x).sum().item()

def child(folder, ready):
    os.environ["NUMBA_CACHE_DIR"] = folder
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        os.write(ready, b"1")
        first_call()
        outcome = 7  # it had ended before the signal came
        time.sleep(5)
    except KeyboardInterrupt:
        outcome = 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return outcome if first_call() == 8192 else 8

def run(folder, delay):
    "The exit code of a child that is interrupted after so many seconds, and how long it took without."
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            code = child(folder, sending)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    os.read(receiving, 1)
    os.close(receiving), os.close(sending)
    time.sleep(delay)
    os.kill(pid, signal.SIGINT)
    end = time.monotonic() + 60
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "hang"
    return os.waitstatus_to_exitcode(done[1])

def duration(folder):
    "Seconds of a first call that nobody interrupts."
    pid = os.fork()
    if pid == 0:
        os.environ["NUMBA_CACHE_DIR"] = folder
        start = time.monotonic()
        first_call()
        print(time.monotonic() - start, file=open(os.path.join(folder, "seconds"), "w"))
        os._exit(0)
    os.waitpid(pid, 0)
    return float(open(os.path.join(folder, "seconds")).read())

rng = random.Random(int(sys.argv[3]))
with tempfile.TemporaryDirectory() as kept:
    seconds = duration(kept)
    seconds = duration(kept) if warm else seconds
    for _ in range(trials):
        with tempfile.TemporaryDirectory() as fresh:
            print(run(kept if warm else fresh, rng.uniform(0, 0.95 * seconds)), flush=True)
"""


def outcomes(trials: int, kind: str, seed: int) -> list[str]:
    """Return the exit code of each trial: 0 interrupted and right, 7 too late, else a fault."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(trials), kind, str(seed)]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"0", "7"}, done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("kind", ["cold", "warm"])
def test_ctrl_c_in_a_first_call(kind):
    assert "0" in outcomes(TRIALS, kind, seed=0)


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("kind", ["cold", "warm"])
def test_ctrl_c_in_many_first_calls(kind):
    codes = outcomes(MANY_TRIALS, kind, seed=1)
    assert codes.count("0") > 0.8 * MANY_TRIALS
