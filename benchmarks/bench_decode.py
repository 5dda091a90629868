"""Run the benchmark of whole models of the sizes that people run: `python benchmarks/bench_decode.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.decode import run

if __name__ == "__main__":
    run()
