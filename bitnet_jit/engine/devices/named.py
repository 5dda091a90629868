"""The devices that a caller names for one model: one, or several with a replica each."""

from collections.abc import Sequence

import torch

from bitnet_jit.arguments import show
from bitnet_jit.devices.checks import check_device
from bitnet_jit.errors import InvalidInput


def as_devices(device: torch.device | str | None, devices: Sequence[torch.device | str]) -> list[torch.device]:
    """Return the devices of a model's replicas; one that is named twice has two.

    Args:
        device: where there is one; None: the CPU.
        devices: several in place of it.

    Raises:
        InvalidInput: both are given, or one cannot be used here.

    >>> as_devices(None, []), as_devices(None, ["cpu", "cpu"])
    ([device(type='cpu')], [device(type='cpu'), device(type='cpu')])
    """
    if isinstance(devices, str) or not isinstance(devices, Sequence):
        raise InvalidInput(f"devices: expected a list of devices, got {show(devices)}")
    if not devices:
        return [check_device(device)]
    if device is not None:
        raise InvalidInput(f"devices: expected none beside device={show(device)}, got {show(list(devices))}")
    return [check_device(place) for place in devices]
