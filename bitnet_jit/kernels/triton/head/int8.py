"""`head_logits` with a head of int8: x in 15 bits, q = 128 hi + lo, and two exact sums of products of int8.

    logits = float32(128 sum hi w + sum lo w) * (x_scale * head_scale)        the sum is one int64, rounded once

A launch quantizes the rows of x into hi, lo and x_scale; the next one reads the head once for both products. Behind a
residual sum and a norm the first launch does those, too, with the bits of `rms_norm` and of what is above.
"""

from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch, Scratch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.quantize import EPS, INFINITY_BITS, ROUND, ROUND_BITS, magnitude
from bitnet_jit.kernels.triton.device.row import (
    LANES,
    inputs_of_part,
    lanes_of,
    load_values,
    norm_factor,
    sum_of_lanes,
)
from bitnet_jit.kernels.triton.head.floats import NORMALIZED, HeadConfig
from bitnet_jit.kernels.triton.layout import row_bytes
from bitnet_jit.kernels.triton.linear.tiles import fitting
from bitnet_jit.kernels.triton.rowwise.rows import fixed
from bitnet_jit.problem import MAX_INT8_HEAD_FEATURES, Problem

STEPS = tl.constexpr(127 * 128)  # of a code of x, in either direction
BLOCK = 4096  # inputs of a row that are quantized at a time, at most


@triton.jit
def hidden_scale(bits):
    """Return for a row's largest magnitude whether it is not finite, the factor from x to codes, and x_scale."""
    bad = bits >= INFINITY_BITS
    absmax = tl.where(bad, 1.0, tl.maximum(bits.to(tl.float32, bitcast=True), EPS))
    steps = tl.full((), STEPS, tl.float32)
    return bad, tl.div_rn(steps, absmax), tl.where(bad, float("nan"), tl.div_rn(absmax, steps))


@triton.jit
def store_halves(hi_ptr, lo_ptr, x, bad, to_codes, inside):
    """Write the codes of x, q = 128 hi + lo."""
    q = (tl.where(bad, 0.0, x) * to_codes + ROUND).to(tl.int32, bitcast=True) - ROUND_BITS
    hi = (q + 64) >> 7
    tl.store(hi_ptr, hi.to(tl.int8), mask=inside)
    tl.store(lo_ptr, (q - 128 * hi).to(tl.int8), mask=inside)


@triton.jit
def quantize_hidden_kernel(
    x_ptr,  # (M, K) float
    hi_ptr,  # (M, K) int8
    lo_ptr,  # (M, K) int8
    scale_ptr,  # (M,) float32
    K: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    row, block = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x_ptr += row * K
    largest = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, K, BLOCK):
        x = tl.load(x_ptr + start + block, mask=start + block < K, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, magnitude(x))
    bad, to_codes, scale = hidden_scale(tl.max(largest, axis=0))
    for start in range(0, K, BLOCK):
        k = start + block
        x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        store_halves(hi_ptr + row * K + k, lo_ptr + row * K + k, x, bad, to_codes, k < K)
    tl.store(scale_ptr + row, scale)


@triton.jit
def load_normalized(x_ptr, delta_ptr, weight_ptr, factor, k, inside):
    """Return the normalized sum of x and delta at inputs k of a row, rounded to x's dtype."""
    x = load_values(x_ptr, delta_ptr, k, inside, "add")
    y = x * factor * tl.load(weight_ptr + k, mask=inside, other=0.0).to(tl.float32)
    return y.to(x_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def norm_hidden_kernel(
    x_ptr,  # (M, K) float
    delta_ptr,  # (M, K) float
    weight_ptr,  # (K,) float
    eps,
    hi_ptr,  # (M, K) int8
    lo_ptr,  # (M, K) int8
    scale_ptr,  # (M,) float32
    K: tl.constexpr,
    WORDS: tl.constexpr,  # of four inputs, in a quarter of a row
    PDL: tl.constexpr,
    SIZE: tl.constexpr,  # words of each quarter at a time
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * K
    delta_ptr += row * K
    lanes = tl.zeros((LANES,), tl.float32)
    for part in range(0, WORDS, SIZE):
        k, there = inputs_of_part(part, SIZE, WORDS)
        x = load_values(x_ptr, delta_ptr, k, there & (k < K), "add")
        lanes += lanes_of(x * x, SIZE)
    factor = norm_factor(sum_of_lanes(lanes), eps, K)
    largest = tl.zeros((SIZE,), tl.int32)
    for part in range(0, WORDS, SIZE):
        k, there = inputs_of_part(part, SIZE, WORDS)
        y = load_normalized(x_ptr, delta_ptr, weight_ptr, factor, k, there & (k < K))
        largest = tl.maximum(largest, tl.max(tl.max(magnitude(y), axis=2), axis=0))
    bad, to_codes, scale = hidden_scale(tl.max(largest, axis=0))
    for part in range(0, WORDS, SIZE):
        k, there = inputs_of_part(part, SIZE, WORDS)
        inside = there & (k < K)
        y = load_normalized(x_ptr, delta_ptr, weight_ptr, factor, k, inside)
        store_halves(hi_ptr + row * K + k, lo_ptr + row * K + k, y, bad, to_codes, inside)
    tl.store(scale_ptr + row, scale)


@triton.jit(do_not_specialize=["M"])
def int8_head_kernel(
    hi_ptr,  # (M, K) int8
    lo_ptr,  # (M, K) int8
    head_ptr,  # (N, K) int8
    y_ptr,  # (M, N) float32
    x_scale_ptr,  # (M,) float32
    head_scale_ptr,  # (N,) float32
    M,
    N,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    tiles = tl.cdiv(M, BLOCK_M)
    first_m, first_n = tl.program_id(0) % tiles * BLOCK_M, tl.program_id(0) // tiles * BLOCK_N
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    head_ptrs = head_ptr + first_n.to(tl.int64) * K + (tl.minimum(n, N - 1 - first_n)[:, None] * K + k[None, :])
    x_at = first_m.to(tl.int64) * K + (m[:, None] * K + k[None, :])
    rows = first_m + m < M
    head_scale = tl.load(head_scale_ptr + first_n + n, mask=first_n + n < N, other=0.0)
    high = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    low = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    gdc_wait(PDL)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        there = rows[:, None]
        if K % BLOCK_K == 0:
            w = tl.load(head_ptrs + start)
        else:
            there = there & (k < K - start)[None, :]
            w = tl.load(head_ptrs + start, mask=(k < K - start)[None, :], other=0)
        hi = tl.load(hi_ptr + x_at + start, mask=there, other=0)
        lo = tl.load(lo_ptr + x_at + start, mask=there, other=0)
        high = tl.dot(w, tl.trans(hi), high, out_dtype=tl.int32)
        low = tl.dot(w, tl.trans(lo), low, out_dtype=tl.int32)
    total = (high.to(tl.int64) * 128 + low.to(tl.int64)).to(tl.float32)
    x_scale = tl.load(x_scale_ptr + first_m + m, mask=rows, other=0.0)
    y_ptrs = y_ptr + first_m.to(tl.int64) * N + first_n + (m[None, :] * N + n[:, None])
    y = total * (x_scale[None, :] * head_scale[:, None])
    tl.store(y_ptrs, y, mask=rows[None, :] & (first_n + n < N)[:, None])


def bind(problem: Problem, config: HeadConfig) -> Bound:
    """Bind x (M, K) float, head (N, K) int8, head_scale (N,) -> logits (M, N)."""
    first = normalize if problem.op == NORMALIZED else quantize
    return Bound(lambda m: (first(problem, m), multiply(problem, m, config)), lambda m: codes(problem, m))


def codes(problem: Problem, m: int) -> Scratch:
    """Return the scratch tensors for x in 15 bits."""
    return {
        "x_hi": (m * problem.in_features, "int8"),
        "x_lo": (m * problem.in_features, "int8"),
        "x_scale": (m, "float32"),
    }


def quantize(problem: Problem, m: int) -> Launch:
    """Return the launch that quantizes rows."""
    block = min(BLOCK, max(256, triton.next_power_of_2(problem.in_features)))
    constants = {"K": problem.in_features, "PDL": target.supports_pdl(problem.gpu), "BLOCK": block}
    return Launch(quantize_hidden_kernel, m, ("x", "x_hi", "x_lo", "x_scale"), constants, min(8, block // 128))


def normalize(problem: Problem, m: int) -> Launch:
    """Return the launch that adds delta to rows, normalizes and quantizes them, with the config of `rms_norm`."""
    config = fixed(problem)[0]
    constants = {
        "K": problem.in_features,
        "WORDS": row_bytes(problem.in_features) // 4,
        "PDL": target.supports_pdl(problem.gpu),
        "SIZE": config.block // 16,
    }
    operands = ("x", "delta", "weight", "eps", "x_hi", "x_lo", "x_scale")
    return Launch(norm_hidden_kernel, m, operands, constants, config.num_warps)


def multiply(problem: Problem, m: int, config: HeadConfig) -> Launch:
    """Return the launch that multiplies codes by the head."""
    constants = {
        "M": m,
        "N": problem.out_features,
        "K": problem.in_features,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "STAGES": config.num_stages,
        "PDL": target.supports_pdl(problem.gpu),
    }
    programs = triton.cdiv(m, config.block_m) * triton.cdiv(problem.out_features, config.block_n)
    operands = ("x_hi", "x_lo", "head", "logits", "x_scale", "head_scale")
    return Launch(int8_head_kernel, programs, operands, constants, config.num_warps)


def configs(problem: Problem) -> tuple[HeadConfig, ...]:
    """Return configs by the number of rows, the likeliest best first."""
    m = min(64, max(16, problem.rows))
    tiles = [(128, 256, 8, 3), (128, 128, 8, 4), (64, 128, 4, 5), (64, 128, 4, 3)]
    if m <= 32:
        tiles = [(64, 256, 4, 4), (128, 256, 8, 4), (64, 128, 4, 6), (64, 128, 4, 3)]
    return fitting(problem, tuple(HeadConfig(m, *tile) for tile in tiles), size)


def space(problem: Problem) -> tuple[HeadConfig, ...]:
    """Return configs of tiles of 64 or 128 rows of the head."""
    m = min(64, max(16, problem.rows))
    sizes = product((64, 128), (64, 128, 256, 512), (4, 8), (2, 3, 4, 5, 6))
    return fitting(problem, tuple(HeadConfig(m, *tile) for tile in sizes), size)


def size(config: HeadConfig) -> int:
    """Return the bytes of shared memory that a config needs: hi and lo are two bytes of x."""
    return config.shared_memory(2, 1)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.w_dtype != "int8":
        return "takes heads of int8"
    if problem.in_features > MAX_INT8_HEAD_FEATURES:
        return f"takes at most {MAX_INT8_HEAD_FEATURES} inputs"
    return target.unsupported_reason(problem.gpu)


KERNELS = (
    Kernel("triton.int8_head_logits", "head_logits", bind, configs, unsupported_reason, space),
    Kernel("triton.add_rms_norm_int8_head_logits", NORMALIZED, bind, configs, unsupported_reason, space),
)
