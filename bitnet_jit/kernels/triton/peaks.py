"""The roofline of a GPU: two kernels that do nothing but read memory, or multiply int8 tiles."""

import triton
import triton.language as tl

WORDS = 4096  # that a program of `read_kernel` reads
TILE, DEPTH, STEPS, WAVES = 128, 128, 2048, 4  # of `product_kernel`, which runs several waves of programs


@triton.jit
def read_kernel(words_ptr, sums_ptr, WORDS: tl.constexpr):
    """Sum WORDS int32 per program."""
    program = tl.program_id(0)
    words = tl.load(words_ptr + program * WORDS + tl.arange(0, WORDS), eviction_policy="evict_first")
    tl.store(sums_ptr + program, tl.sum(words, axis=0))


@triton.jit
def product_kernel(a_ptr, b_ptr, sums_ptr, TILE: tl.constexpr, DEPTH: tl.constexpr, STEPS: tl.constexpr):
    """Multiply the same two int8 tiles, again and again."""
    i, k = tl.arange(0, TILE), tl.arange(0, DEPTH)
    a = tl.load(a_ptr + i[:, None] * DEPTH + k[None, :])
    b = tl.load(b_ptr + i[:, None] * DEPTH + k[None, :])
    acc = tl.zeros((TILE, TILE), tl.int32)
    for _ in range(STEPS):
        acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
    tl.store(sums_ptr + tl.program_id(0) * TILE * TILE + i[:, None] * TILE + i[None, :], acc)
