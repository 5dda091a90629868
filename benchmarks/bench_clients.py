"""Run the benchmark of many clients at once: `python benchmarks/bench_clients.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.clients import run

if __name__ == "__main__":
    run()
