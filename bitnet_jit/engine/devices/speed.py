"""How fast a device runs packed layers, by a measurement of less than a second that a process makes once.

    seconds of a call = overhead + max(weights / read, weights * rows / computed)

Three layers tell the three numbers: a tiny one, a large one with one row, and with many.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch

from bitnet_jit.devices.clock import min_seconds
from bitnet_jit.devices.kinds import fingerprint, kind_of
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

logger = logging.getLogger(__name__)

TINY, LARGE = 256, 8192  # features of the layers; the weight of the large one is 16 MiB
MANY = 64  # rows
ATTEMPTS = 10  # a device may be busy with another process


@dataclass(frozen=True)
class Speed:
    """What a device takes for packed layers.

    Attributes:
        overhead: seconds of a call that has next to nothing to do.
        read: weights per second that one row is multiplied with.
        computed: weights times rows per second, where rows are many.

    >>> Speed(overhead=1e-5, read=1e9, computed=1e10).seconds(num_params=1_000_000, rows=20)
    0.00201
    """

    overhead: float
    read: float
    computed: float

    def seconds(self, num_params: int, rows: int) -> float:
        """Return the seconds that so many rows take through so many weights."""
        return self.overhead + max(num_params / self.read, num_params * rows / self.computed)


SPEEDS: dict[str, Speed | None] = {}  # by the fingerprint of a device: twins are measured once
LOCK = Lock()


def measured_speed(device: torch.device) -> Speed | None:
    """Return the speed of a device, measured when this process first asks; None where it runs no packed layer."""
    name = fingerprint(device)
    with LOCK:
        if name not in SPEEDS:
            try:
                SPEEDS[name] = measure(device)
            except Exception as error:  # whatever a device raises that does not work: it is not chosen
                logger.warning("%s runs no packed layer and is passed over: %s", device, error)
                SPEEDS[name] = None
        return SPEEDS[name]


def measure(device: torch.device) -> Speed:
    """Measure a device."""
    tiny, large = (PackedBitLinear(size, size, bias=False, device=device) for size in (TINY, LARGE))
    overhead, one, many = (
        min_seconds(call_of(layer, rows, device), ATTEMPTS) for layer, rows in ((tiny, 1), (large, 1), (large, MANY))
    )
    weights = LARGE * LARGE
    least = overhead / 100  # a clock is not so exact that a difference could not be 0
    return Speed(overhead, weights / max(least, one - overhead), weights * MANY / max(least, many - overhead))


def call_of(layer: PackedBitLinear, rows: int, device: torch.device) -> Callable[[], None]:
    """Return what runs a layer on some rows, and waits for the device."""
    kind = kind_of(device)
    x = torch.ones(rows, layer.in_features, device=device, dtype=getattr(torch, kind.default_dtype))

    def call() -> None:
        with torch.inference_mode(), kind.current(device):
            layer(x)
            kind.synchronize()

    return call
