"""Apple's GPUs as torch has them."""

from bitnet_jit.devices.kind import DeviceKind


def count() -> int:
    """Return 1 where torch can use the GPU, else 0."""
    import torch

    return int(torch.backends.mps.is_available())


def synchronize() -> None:
    """Wait until the GPU has done all that it was told."""
    import torch

    torch.mps.synchronize()


MPS = DeviceKind("mps", count=count, synchronize=synchronize)
