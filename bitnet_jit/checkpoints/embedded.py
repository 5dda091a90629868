"""The small model that comes with the package."""

from pathlib import Path

import bitnet_jit

EMBEDDED = "tiny-bitnet"  # its name


def embedded_model() -> Path:
    """Return the directory of the model that is used where none is named; docs/tiny-bitnet describes it."""
    return Path(bitnet_jit.__file__).parent / "assets" / EMBEDDED
