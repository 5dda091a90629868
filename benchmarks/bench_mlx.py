"""Run the benchmark of layers on MLX's arrays: `python benchmarks/bench_mlx.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.mlx import run

if __name__ == "__main__":
    run()
