"""Serve mixed load for minutes, and watch that nothing fails or grows: `python benchmarks/soak.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.soak.run import run

if __name__ == "__main__":
    sys.exit(run())
