"""Run the benchmark of texts through the engine: `python benchmarks/bench_engine_text.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.engine_text.run import run

if __name__ == "__main__":
    run()
