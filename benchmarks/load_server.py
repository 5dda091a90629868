"""Put load on a server of OpenAI's interface, and measure it: `python benchmarks/load_server.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.suites.load.run import run

if __name__ == "__main__":
    run()
