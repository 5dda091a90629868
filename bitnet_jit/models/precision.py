"""A decoder computes in its dtype and gives float32 logits, whatever autocast is in force around it."""

from contextlib import AbstractContextManager, nullcontext

import torch

TRACED = ("cpu", "cuda")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Make a context in which products on a device are not autocast; it costs nothing where autocast is off anyhow.

    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(torch.device("cpu")):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    kind = device.type
    if torch.compiler.is_compiling() and kind in TRACED:  # whether autocast knows a device cannot be asked there
        return torch.autocast(kind, enabled=False)
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
