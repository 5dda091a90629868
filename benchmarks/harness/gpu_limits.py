"""Limits of a GPU, measured by two kernels that do nothing else: read memory, multiply int8 tiles."""

import numpy as np
import torch

from benchmarks.harness.contender import Contender
from bitnet_jit.kernels.triton.peaks import DEPTH, STEPS, TILE, WAVES, WORDS, product_kernel, read_kernel

READ_BYTES = 1 << 30


def reads(device: str) -> Contender:
    """Return a contender that reads a gigabyte, more than any cache holds."""
    words = torch.ones(READ_BYTES // 4, dtype=torch.int32, device=device)
    sums = torch.empty(words.numel() // WORDS, dtype=torch.int32, device=device)

    def run(number: int) -> None:
        read_kernel[(sums.numel(),)](words, sums, WORDS, num_warps=8)

    run(0)
    assert bool((sums == WORDS).all())
    return Contender("limit:read", run, lambda: sums.cpu().numpy(), READ_BYTES, 0, lambda threads: None)


def products(device: str) -> Contender:
    """Return a contender that multiplies tiles again and again, on every multiprocessor."""
    programs = WAVES * torch.cuda.get_device_properties(device).multi_processor_count
    a, b = (torch.ones(TILE, DEPTH, dtype=torch.int8, device=device) for _ in range(2))
    sums = torch.empty(programs, TILE, TILE, dtype=torch.int32, device=device)

    def run(number: int) -> None:
        product_kernel[(programs,)](a, b, sums, TILE, DEPTH, STEPS, num_warps=4)

    run(0)
    assert bool((sums == DEPTH * STEPS).all())
    num_ops = 2 * programs * TILE * TILE * DEPTH * STEPS
    return Contender("limit:peak", run, lambda: np.asarray(sums.cpu()), 0, num_ops, lambda threads: None)
