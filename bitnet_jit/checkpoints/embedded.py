"""The small model that comes with the package."""

from pathlib import Path

import bitnet_jit


def embedded_model() -> Path:
    """The directory of the model that is used where none is named; docs/tiny-bitnet says what it is."""
    return Path(bitnet_jit.__file__).parent / "assets" / "tiny-bitnet"
