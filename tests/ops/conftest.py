"""Modules of helpers beside the tests can be imported by their names."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
