"""A problem with its choice, and processes of their own that keep it in a cache."""

import subprocess
import sys
from pathlib import Path

from bitnet_jit.problem import Problem
from bitnet_jit.runtime.entries import Tuned

PROBLEM = Problem("bit_linear", "cuda", 16, 2560, 6912, "i2/planes", "a8", device="NVIDIA H200/9.0/132/13000")
TUNED = Tuned("triton.gemm_bit_linear", 1, {"block_m": 16, "tile": {"stages": 4}}, 4.5, 5.0)
PREPARE = """
import dataclasses, os, random, signal, sys, time
from tuning_cache import PROBLEM, TUNED
from bitnet_jit.runtime import cache
from bitnet_jit.runtime.cache import TuningCache
cache.versions()  # reads the standard library, which another user may not
kept = TuningCache(__import__('pathlib').Path(sys.argv[1]))
"""


def script(code: str, *arguments: object, environ: dict[str, str] | None = None) -> str:
    """Return what a process of its own prints."""
    command = [sys.executable, "-c", PREPARE + code, *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 200, "cwd": Path(__file__).parent, "env": environ}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout
