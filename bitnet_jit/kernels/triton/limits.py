"""Measure what a GPU does at most: reads of a gigabyte, and products of tiles on every multiprocessor."""

from typing import Any

import torch

from bitnet_jit.devices.clock import min_seconds
from bitnet_jit.kernels.backend import Rates
from bitnet_jit.kernels.triton.peaks import DEPTH, STEPS, TILE, WAVES, WORDS, product_kernel, read_kernel

READ_BYTES = 1 << 30  # more than caches hold


def measure_rates(device: Any) -> Rates:
    """Return the rates of one GPU."""
    with torch.cuda.device(device):
        return Rates(read_rate(device), product_rate(device))


def read_rate(device: Any) -> float:
    """Return the bytes per second of a kernel that only reads."""
    words = torch.ones(READ_BYTES // 4, dtype=torch.int32, device=device)
    programs = words.numel() // WORDS
    sums = torch.empty(programs, dtype=torch.int32, device=device)

    def read() -> None:
        read_kernel[(programs,)](words, sums, WORDS, num_warps=8)
        torch.cuda.synchronize()

    return words.nbytes / min_seconds(read)


def product_rate(device: Any) -> float:
    """Return the int8 operations per second of a kernel that only multiplies tiles."""
    tiles = WAVES * torch.cuda.get_device_properties(device).multi_processor_count
    tile = torch.ones(TILE, DEPTH, dtype=torch.int8, device=device)
    products = torch.empty(tiles, TILE, TILE, dtype=torch.int32, device=device)

    def multiply() -> None:
        product_kernel[(tiles,)](tile, tile, products, TILE, DEPTH, STEPS, num_warps=4)
        torch.cuda.synchronize()

    return 2 * tiles * TILE**2 * DEPTH * STEPS / min_seconds(multiply)
