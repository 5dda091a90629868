"""Run the benchmark of loading a model: `python benchmarks/bench_load.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.loading import run

if __name__ == "__main__":
    run()
