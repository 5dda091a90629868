"""Triton kernels for NVIDIA and AMD GPUs.

BACKEND loads when it is first asked for: `layout.py` can be imported without Triton, by those who read on one machine
what was laid on another.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "BACKEND":
        raise AttributeError(f"module 'bitnet_jit.kernels.triton' has no attribute {name!r}")
    from bitnet_jit.kernels.triton.backend import BACKEND

    return BACKEND
