"""`Buffer`: bytes of a pool that somebody has, and tensors over them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitnet_jit.engine.memory.region import Loan
from bitnet_jit.errors import InvalidInput


class Buffer:
    """Bytes of a pool. They go back when it has been released, or is gone, and no tensor over them is left.

    So a tensor that a module keeps, or hands on as its result, never changes under whoever holds it.
    """

    __slots__ = ("_bytes", "_loan")

    def __init__(self, array: NDArray[np.uint8], loan: Loan) -> None:
        self._bytes: NDArray[np.uint8] | None = array
        self._loan = loan

    @property
    def num_bytes(self) -> int:
        """Return how many bytes it has."""
        return self._loan.asked

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor over its first bytes, uninitialized. Raises InvalidInput where they do not suffice."""
        array = self._held()
        needed = math.prod(shape) * dtype.itemsize
        if needed > len(array):
            raise InvalidInput(f"shape: {tuple(shape)} of {dtype} needs {needed} bytes, the buffer has {len(array)}")
        exact = array if needed == len(array) else array[:needed]
        return torch.from_numpy(exact).view(dtype).view(*shape)

    def hold_until(self, event: Any) -> None:
        """Keep the bytes from being used again before an event has ended: a copy by a device reads or writes them."""
        self._held()
        self._loan.event = event

    def release(self) -> None:
        """Give the bytes back. Raises InvalidInput where that was done before."""
        self._held()
        self._bytes = None

    def _held(self) -> NDArray[np.uint8]:
        """Return the bytes. Raises InvalidInput where they have been given back."""
        if self._bytes is None:
            raise InvalidInput(f"buffer: of {self.num_bytes} bytes was released before; allocate another one")
        return self._bytes
