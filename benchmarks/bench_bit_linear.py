"""Run the benchmark of a whole linear layer: `python benchmarks/bench_bit_linear.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.bit_linear import run

if __name__ == "__main__":
    run()
