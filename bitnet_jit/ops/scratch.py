"""Large tensors that live within one op on a CPU, in memory that their thread keeps.

Of new memory the system zeroes page after page when it is first written: for a weight's floats that takes a fifth of
the time of their product with 512 rows.
"""

import ctypes
from math import prod

import torch

from bitnet_jit.devices.workspace import Workspace

WORKSPACE = Workspace()
MIN_BYTES = 1 << 20  # fewer are had at once from what the process has given back


def scratch(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialized tensor, the thread's own until it asks for the next one."""
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes < MIN_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    memory = (ctypes.c_uint8 * num_bytes).from_address(WORKSPACE.take(num_bytes))
    return torch.frombuffer(memory, dtype=dtype).view(shape)
