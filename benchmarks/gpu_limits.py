"""What a GPU can do at most, measured by two kernels that do nothing else: read memory, multiply int8 tiles."""

import numpy as np
import torch
import triton
import triton.language as tl

from work import Contender

READ_BYTES = 1 << 30
WORDS = 4096  # a program reads
TILE, DEPTH, STEPS, WAVES = 128, 128, 2048, 4


@triton.jit
def read_kernel(words_ptr, sums_ptr, WORDS: tl.constexpr):
    program = tl.program_id(0)
    words = tl.load(words_ptr + program * WORDS + tl.arange(0, WORDS), eviction_policy="evict_first")
    tl.store(sums_ptr + program, tl.sum(words, axis=0))


@triton.jit
def product_kernel(a_ptr, b_ptr, sums_ptr, TILE: tl.constexpr, DEPTH: tl.constexpr, STEPS: tl.constexpr):
    i, k = tl.arange(0, TILE), tl.arange(0, DEPTH)
    a = tl.load(a_ptr + i[:, None] * DEPTH + k[None, :])
    b = tl.load(b_ptr + i[:, None] * DEPTH + k[None, :])
    acc = tl.zeros((TILE, TILE), tl.int32)
    for _ in range(STEPS):
        acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
    tl.store(sums_ptr + tl.program_id(0) * TILE * TILE + i[:, None] * TILE + i[None, :], acc)


def reads(device: str) -> Contender:
    """Reads a gigabyte, more than any cache holds."""
    words = torch.ones(READ_BYTES // 4, dtype=torch.int32, device=device)
    sums = torch.empty(words.numel() // WORDS, dtype=torch.int32, device=device)

    def run(number: int) -> None:
        read_kernel[(sums.numel(),)](words, sums, WORDS, num_warps=8)

    run(0)
    assert bool((sums == WORDS).all())
    return Contender("limit:read", run, lambda: sums.cpu().numpy(), READ_BYTES, 0, lambda threads: None)


def products(device: str) -> Contender:
    """Multiplies tiles again and again, on every multiprocessor."""
    programs = WAVES * torch.cuda.get_device_properties(device).multi_processor_count
    a, b = (torch.ones(TILE, DEPTH, dtype=torch.int8, device=device) for _ in range(2))
    sums = torch.empty(programs, TILE, TILE, dtype=torch.int32, device=device)

    def run(number: int) -> None:
        product_kernel[(programs,)](a, b, sums, TILE, DEPTH, STEPS, num_warps=4)

    run(0)
    assert bool((sums == DEPTH * STEPS).all())
    num_ops = 2 * programs * TILE * TILE * DEPTH * STEPS
    return Contender("limit:peak", run, lambda: np.asarray(sums.cpu()), 0, num_ops, lambda threads: None)
