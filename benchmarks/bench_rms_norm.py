"""Run the benchmark of row-wise ops: `python benchmarks/bench_rms_norm.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.rms_norm import run

if __name__ == "__main__":
    run()
