"""Triton kernels for NVIDIA and AMD GPUs.

BACKEND loads when it is first asked for. So `layout.py` can be imported without Triton, to read on one machine a weight
that was laid on another.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "BACKEND":
        raise AttributeError(f"module 'bitnet_jit.kernels.triton' has no attribute {name!r}")
    from bitnet_jit.kernels.triton.backend import BACKEND

    return BACKEND
