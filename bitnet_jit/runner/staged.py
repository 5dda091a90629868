"""`Staged`: numbers that stay where they are on a device, and how new ones get there."""

import torch

from bitnet_jit.devices.kinds import kind_of

BUFFERS = 2  # of page-locked memory: while one is being copied, the next step fills the other


class Staged:
    """Numbers of captured steps.

    Args:
        count: how many.
        device: where steps run.
        apart: whether it has memory of its own; else both are the same memory.

    Attributes:
        tensor: (count,) int32 on the device, of zeros at first.
        values: the same on the host, as a NumPy array: to be filled, and sent.
    """

    def __init__(self, count: int, device: torch.device, apart: bool) -> None:
        numbers = torch.zeros(count, dtype=torch.int32, device="cpu")
        self.tensor, self.values = numbers.to(device, copy=apart), numbers.numpy()
        self._buffers = [kind_of(device).to_fill(numbers.clone()) for _ in range(BUFFERS)] if apart else []
        self._next = 0

    def send(self) -> None:
        """Have the values on the device, without waiting for it."""
        if self._buffers:
            host = self._buffers[self._next]
            self._next = (self._next + 1) % BUFFERS
            host.numpy()[:] = self.values
            self.tensor.copy_(host, non_blocking=True)
