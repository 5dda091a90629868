"""Scratch memory of the CPU kernels: one growing buffer a thread, shared with no other."""

import threading

import numpy as np

ALIGN = 64


class Workspace(threading.local):
    """A thread's scratch memory. Its content lives until the thread's next call."""

    def __init__(self) -> None:
        self._grow(1 << 16)

    def _grow(self, num_bytes: int) -> None:
        self._buffer = np.empty(num_bytes + ALIGN, np.uint8)
        self.address = -(-self._buffer.ctypes.data // ALIGN) * ALIGN
        self.num_bytes = num_bytes

    def take(self, num_bytes: int) -> int:
        """The address of at least `num_bytes` bytes, 64-byte aligned and uninitialized."""
        if num_bytes > self.num_bytes:
            self._grow(max(num_bytes, 2 * self.num_bytes))
        return self.address

    def release(self) -> None:
        """Give back what large calls have left."""
        self._grow(1 << 16)
