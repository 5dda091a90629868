"""How the Numba kernels see half types: float16 is NumPy's own, bfloat16 the bits of it as uint16."""

import numpy as np


def stored(x, dtype):
    """(a float32 array as a kernel takes it, its values as float32); bfloat16 is cut off, not rounded."""
    if dtype == "bfloat16":
        bits = (x.view(np.uint32) >> 16).astype(np.uint16)
        return bits, values(bits, dtype)
    with np.errstate(over="ignore", under="ignore"):
        narrow = x.astype(dtype)
    return narrow, values(narrow, dtype)


def values(y, dtype):
    """What a kernel has written, as float32."""
    return (y.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else y.astype(np.float32)
