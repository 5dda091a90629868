"""The thread pool and its process: exit, Ctrl-C, forks and too little memory do no harm to either. No torch here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import _thread, atexit, os, resource, signal, sys, threading, time
import numpy as np
from bitnet_jit.kernels.numba.arrays import all_threads, process_fork, run
from bitnet_jit.kernels.numba.rowwise.dequantize import KERNELS
from bitnet_jit.kernels.numba.threads.team import TeamConfig
from bitnet_jit.problem import Problem

def works(rows=4001, threads=2):
    "Whether a call on several threads gives the right numbers."
    codes = (np.arange(rows * 257) % 251 - 125).astype(np.int8).reshape(rows, 257)
    scales, x = np.full(rows, 0.5, np.float32), np.full((rows, 257), np.nan, np.float32)
    problem = Problem("dequantize_activation", "cpu", 1, 257, 257, x_dtype="int8", y_dtype="float32")
    run(KERNELS[0], problem, {"x_q": codes, "x_scale": scales, "x": x}, TeamConfig(None), all_threads(threads))
    return np.array_equal(x, codes * np.float32(0.5))

def helpers():
    "How many threads this process has beside the main one."
    return len(os.listdir("/proc/self/task")) - 1

for _ in range(20):
    assert works()
"""
SCRIPTS = {
    "exit while helpers look for work": "print(helpers() == 1)",
    "exit while helpers are parked": "time.sleep(0.3); print(helpers() == 1)",
    "exit while others call": """
def call():
    while True:
        works(threads=3)
for _ in range(3): threading.Thread(target=call, daemon=True).start()
time.sleep(0.2)
print(True)
""",
    "calls at exit": "atexit.register(lambda: print(works() and works(threads=4)))",
    "calls after the helpers have ended": """
process_fork()._pool.stop(); time.sleep(0.1)
print(helpers() == 0 and works() and works(threads=4))
""",
    "exit of a forked child": """
child = os.fork()
if child == 0:
    assert works() and process_fork().address == 0
    begin = time.monotonic()
    atexit.register(lambda: os._exit(int(time.monotonic() - begin > 0.8)))  # runs before the handlers from before
    sys.exit()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and works())
""",
    "exit of a forked child, whole": """
child = os.fork()
if child == 0:
    sys.exit(0 if works() else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and works())
""",
    "forks beside callers": """
stop = threading.Event()
def call():
    while not stop.is_set():
        assert works()
callers = [threading.Thread(target=call) for _ in range(2)]
for caller in callers: caller.start()
codes = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if works() else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for caller in callers: caller.join()
print(codes == [0] * 5 and works())
""",
    "Ctrl-C within calls": """
signal.signal(signal.SIGINT, signal.default_int_handler)
stopped = 0
for turn in range(5):
    timer = threading.Timer(0.02 + 0.01 * turn, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            works(rows=8001)
    except KeyboardInterrupt:
        stopped += 1
print(stopped == 5 and works())
""",
    "signals go to other threads": """
signal.signal(signal.SIGUSR1, lambda *_: None)
masks = []
for task in os.listdir("/proc/self/task"):
    status = open(f"/proc/self/task/{task}/status").read()
    masks.append(int(status.split("SigBlk:")[1].split()[0], 16) >> (signal.SIGUSR1 - 1) & 1)
print(sorted(masks) == [0, 1])
""",
    "no memory for more threads": """
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 30 * 2**20, resource.RLIM_INFINITY))
print(works(threads=60) and works(threads=60) and 1 <= helpers() < 59)
""",
}
HERE = Path(__file__).parents[3]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no pool here")
@pytest.mark.parametrize("name", SCRIPTS)
def test_processes_end_well(name):
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "OPENBLAS_NUM_THREADS": "1",  # so that all threads but one are ours
    }
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-X", "faulthandler", "-c", COMMON + SCRIPTS[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True", done.stderr
