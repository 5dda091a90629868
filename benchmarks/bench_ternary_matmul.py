"""Run the benchmark of the ternary matmul alone: `python benchmarks/bench_ternary_matmul.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.ternary_matmul import run

if __name__ == "__main__":
    run()
