"""Measure how fast torch reads memory on a device; it has no products of int8 on all of them."""

from typing import Any

import torch

from bitnet_jit.devices.clock import min_seconds
from bitnet_jit.kernels.backend import Rates

READ_BYTES = 1 << 29


def measure_rates(device: Any) -> Rates:
    """Return the rate of a sum, and none of products."""
    words = torch.ones(READ_BYTES // 4, dtype=torch.int32, device=device)
    return Rates(words.nbytes / min_seconds(lambda: words.sum().item()), 0.0)
