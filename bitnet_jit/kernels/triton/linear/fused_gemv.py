"""`bit_linear` for one row of x in one launch: each program quantizes the row, then multiplies as in `gemv.py`.

The quantization is repeated in every program, beside weights on their way from memory. That saves a launch, the memory
between two launches, and the wait for the first.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.quantize import code_of, code_scale, magnitude
from bitnet_jit.kernels.triton.layout import I2_PLANES, PLANES, row_words
from bitnet_jit.kernels.triton.linear.epilogue import flags, load_w_scale, scale_operands, store_outputs
from bitnet_jit.kernels.triton.linear.gemv import codes_of, dot_bytes
from bitnet_jit.problem import Problem

MAX_WORDS = 1024  # of a row of W: all are loaded at once


@dataclass(frozen=True)
class FusedConfig:
    """A program computes `block_n` outputs, whole rows at once; `max_registers` as for `GemvConfig`."""

    block_n: int
    num_warps: int
    max_registers: int


@triton.jit
def fused_kernel(
    x_ptr,  # (K,) float
    w_ptr,  # (N, WORDS) int32: i2/planes or t5/planes
    y_ptr,  # (N,)
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    N,
    K: tl.constexpr,
    WORDS: tl.constexpr,
    PLANES: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    first_n, n = tl.program_id(0) * BLOCK_N, tl.arange(0, BLOCK_N)
    word, byte = tl.arange(0, BLOCK_WORDS), tl.arange(0, 4)[None, :]
    w_ptr += first_n.to(tl.int64) * WORDS
    w_ptrs = w_ptr + (tl.minimum(n, N - 1 - first_n)[:, None] * WORDS + word[None, :])
    weights = tl.load(w_ptrs, mask=(word < WORDS)[None, :], other=0, eviction_policy="evict_first")
    n = first_n + n
    w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
    gdc_wait(PDL)
    k = 4 * word[:, None] + byte
    xs, largest = (), tl.zeros((BLOCK_WORDS, 4), tl.int32)
    for plane in tl.static_range(PLANES):
        first = plane * 4 * WORDS
        x = tl.load(x_ptr + first + k, mask=(k < 4 * WORDS) & (k < K - first), other=0.0).to(tl.float32)
        largest = tl.maximum(largest, magnitude(x))
        xs = xs + (x,)
    bad, to_codes, x_scale = code_scale(tl.max(tl.max(largest, axis=1), axis=0))
    acc, before = tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32), tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32)
    minus_one = tl.full((BLOCK_N, BLOCK_WORDS), -1, tl.int32)  # in each byte
    for plane in tl.static_range(PLANES):
        codes = (code_of(xs[plane], bad, to_codes) & 0xFF) << (8 * byte)
        x_words = tl.sum(codes, axis=1)[None, :] + tl.zeros((BLOCK_N, 1), tl.int32)
        fields, before = codes_of(weights, before, plane, PLANES)
        acc = dot_bytes(fields, x_words, acc, ASM)
        acc = acc if PLANES == 4 else dot_bytes(minus_one, x_words, acc, ASM)
    y = tl.sum(acc >> 6 if PLANES == 4 else acc, axis=1)[None, :]
    store_outputs(y, 0, tl.zeros((1,), tl.int32), n, 1, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def bind(problem: Problem, config: FusedConfig) -> Bound:
    """Bind x (1, K) float, w_packed -> y (1, N)."""
    words = row_words(problem)
    launch = Launch(
        fused_kernel,
        programs=triton.cdiv(problem.out_features, config.block_n),
        operands=("x", "w_packed:int32", "y", *scale_operands(problem)[1:]),
        constants={
            "N": problem.out_features,
            "K": problem.in_features,
            "WORDS": words,
            "PLANES": PLANES[problem.layout],
            **flags(problem),
            "BLOCK_N": config.block_n,
            "BLOCK_WORDS": triton.next_power_of_2(words),
        },
        num_warps=config.num_warps,
        max_registers=config.max_registers,
    )
    return Bound(lambda rows: (launch,))


def configs(problem: Problem) -> tuple[FusedConfig, ...]:
    """Return configs by the length of a row, first the winner on an H200."""
    short = row_words(problem) <= 256
    return FusedConfig(16, 8, 168 if short else 128), FusedConfig(16, 4, 168), FusedConfig(8, 4, 128)


def space(problem: Problem) -> tuple[FusedConfig, ...]:
    """Return configs whose threads hold 2 to 64 words of W."""
    words = triton.next_power_of_2(row_words(problem))
    configs = (FusedConfig(*config) for config in product((4, 8, 16, 32), (2, 4, 8), (104, 128, 168)))
    return tuple(config for config in configs if 2 <= config.block_n * words // (32 * config.num_warps) <= 64)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.rows > 1:
        return "takes one row"
    if row_words(problem) > MAX_WORDS:
        return f"takes at most {4 * MAX_WORDS * PLANES[problem.layout]} inputs"
    return None


def priority(problem: Problem) -> int:
    """Come first, but for t5, and for large layers, which would repeat the quantization too often."""
    small = problem.out_features < 6144 and problem.in_features <= 8192
    return 0 if small and problem.layout == I2_PLANES.name else -2
