"""Run the benchmark of a whole model: `python benchmarks/bench_model.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.model import run

if __name__ == "__main__":
    run()
