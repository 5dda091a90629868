"""The device that a caller names: one that torch can use here, or a refusal in words."""

import warnings

import torch

from bitnet_jit.arguments import show
from bitnet_jit.errors import InvalidInput

LONGEST = 200  # characters of torch's reason; its list of kinds takes thousands


def check_device(device: torch.device | str | None, meta: bool = False) -> torch.device:
    """Return the device, the CPU by default; "meta", which holds no values, only where the caller takes it.

    Raises:
        InvalidInput: torch knows no such one, cannot use it here, or it is "meta" and may not be.

    >>> check_device("cpu:0")
    device(type='cpu')
    >>> check_device("meta")
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: device: 'meta' cannot be used (it holds no values); name cpu or such as cuda:0
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of kinds that it no longer has before it refuses them
            wanted = torch.device("cpu" if device is None else device)
            place = torch.empty(0, device=wanted).device
    # RuntimeError: no such kind or number; AssertionError: this build of torch lacks the kind; ImportError: the kind's
    # package is not installed; TypeError and ValueError: no name of a device at all
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        raise refusal(device, " ".join(str(error).split())) from error
    if place.type == "meta" and not meta:
        raise refusal(device, "it holds no values")
    if place.type == "cpu" and wanted.index:
        raise refusal(device, "there is one CPU, cpu:0")
    return place


def refusal(device: object, reason: str) -> InvalidInput:
    """Return the error for a device that cannot be used."""
    reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}..."
    return InvalidInput(f"device: {show(device)} cannot be used ({reason}); name cpu or such as cuda:0")
