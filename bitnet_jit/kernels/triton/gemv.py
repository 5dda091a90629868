"""Ternary layers for a few rows of x: dot products of four bytes, every weight loaded before the first is used.

    y[m, n] = float32(sum over words w and planes s of dot4(weights s of W[n, w], x[m, s B + 4 w ..])) * scales + bias

A field of i2 at the top of its byte counts 64 times the weight: partial sums are shifted back before they are added up.
A digit of t5 is the weight + 1: a second product, of x with bytes of -1, takes the 1 off.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.codes import FIELDS, dot_bytes, let_next_begin, t5_carries, wait
from bitnet_jit.kernels.triton.launch import Launch
from bitnet_jit.kernels.triton.layout import I2_PLANES, PLANES, is_paired, row_bytes
from bitnet_jit.kernels.triton.outputs import flags, load_scales, scale_operands, store_outputs
from bitnet_jit.problem import Problem

MOST_ROWS = 4
MOST_STEPS = 16


@dataclass(frozen=True)
class GemvConfig:
    """A program computes `block_n` outputs, `block_words` words of 16 or 20 weights at a time; its loop is unrolled."""

    block_n: int
    block_words: int
    num_warps: int


@triton.jit
def codes_of(words, before, PLANE: tl.constexpr, PLANES: tl.constexpr):
    """The bytes to multiply of one plane in words, and what the next plane needs of this one."""
    if PLANES == 4:
        codes = (words << (6 - 2 * PLANE)) & FIELDS
    else:
        carries = t5_carries(words, PLANE)
        codes = carries - 3 * before  # no borrow crosses a byte
        before = carries
    return codes, before


@triton.jit
def gemv_kernel(
    x_ptr,  # (M, X_WORDS) int32: x_q in natural order, four codes a word
    w_ptr,  # (N, WORDS) int32: i2/planes or t5/planes
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    N,
    WORDS: tl.constexpr,
    X_WORDS: tl.constexpr,  # of a row of x, at most PLANES * WORDS
    PLANES: tl.constexpr,
    M: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    let_next_begin(DEPENDENT)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    # a tile of addresses, not a row of them: x comes in the layout of the weights, without a detour by shared memory
    words = tl.arange(0, BLOCK_WORDS)[None, :] + tl.zeros((BLOCK_N, 1), tl.int32)
    w_ptrs = w_ptr + n[:, None].to(tl.int64) * WORDS + words
    weights, scales, acc = (), (), ()
    for start in tl.static_range(0, WORDS, BLOCK_WORDS):
        mask = (words < WORDS - start) & (n < N)[:, None]
        weights = weights + (tl.load(w_ptrs + start, mask=mask, other=0, eviction_policy="evict_first"),)
    wait(DEPENDENT)
    for m in tl.static_range(M):
        scales = scales + (
            load_scales(tl.full((1,), m, tl.int32), n, M, N, x_scale_ptr, w_scale_ptr, bias_ptr, ROW_SCALES),
        )
        acc = acc + (tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32),)
    minus_one = tl.full((BLOCK_N, BLOCK_WORDS), -1, tl.int32)  # in each byte
    for step in tl.static_range(len(weights)):
        inside, before = words < WORDS - step * BLOCK_WORDS, tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32)
        for plane in tl.static_range(PLANES):
            codes, before = codes_of(weights[step], before, plane, PLANES)
            k, sums = plane * WORDS + step * BLOCK_WORDS + words, ()
            mask = inside if X_WORDS == PLANES * WORDS else inside & (k < X_WORDS)
            for m in tl.static_range(M):
                x = tl.load(x_ptr + m * X_WORDS + k, mask=mask, other=0)
                total = dot_bytes(codes, x, acc[m], ASM)
                sums = sums + (total if PLANES == 4 else dot_bytes(minus_one, x, total, ASM),)
            acc = sums
    for m in tl.static_range(M):
        y = tl.sum(acc[m] >> 6 if PLANES == 4 else acc[m], axis=1)[None, :]
        x_scale, w_scale, bias = scales[m]
        store_outputs(y, tl.full((1,), m, tl.int32), n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: GemvConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """x (rows, x_stride) int8 in natural order, the operand of that name; w_packed -> y (rows, N).

    x_stride is a multiple of 4.
    """
    planes = PLANES[problem.layout]
    return Launch(
        gemv_kernel,
        programs=triton.cdiv(problem.out_features, config.block_n),
        operands=(f"{x}:int32", "w_packed:int32", "y", *scale_operands(problem)),
        constants={
            "N": problem.out_features,
            "WORDS": row_bytes(problem.in_features, planes) // 4,
            "X_WORDS": x_stride // 4,
            "PLANES": planes,
            "M": rows,
            **flags(problem),
            "BLOCK_N": config.block_n,
            "BLOCK_WORDS": config.block_words,
        },
        num_warps=config.num_warps,
    )


def configs(problem: Problem) -> tuple[GemvConfig, ...]:
    """Tiles by the length of a row, in at most 16 steps, the likeliest best first."""
    words = row_bytes(problem.in_features, PLANES[problem.layout]) // 4
    if problem.layout == I2_PLANES.name and words <= 2048:
        return tuple(GemvConfig(*tile) for tile in tiles(words, problem.out_features, problem.rows))
    block_words = max(64, triton.next_power_of_2(triton.cdiv(words, MOST_STEPS)))
    block_n = max(1, 512 // block_words)
    return GemvConfig(block_n, block_words, 2), GemvConfig(2 * block_n, block_words, 4)


def tiles(words: int, out_features: int, rows: int) -> tuple[tuple[int, int, int], ...]:
    """block_n, block_words and num_warps that won on an H200, by the words of a row."""
    if words <= 192:
        if out_features < 1024 or (rows > 1 and out_features < 3072):
            return (2, 64, 1), (8, 64, 2), (4, 32, 1)
        return ((16, 32, 2), (8, 64, 2)) if out_features < 3072 else ((8, 64, 2), (16, 64, 4))
    if words <= 320:
        return (8, 128, 4), (4, 256, 4), (8, 64, 1)
    if words <= 448:
        return (4, 256, 4), (2, 512, 4)
    if words <= 768:
        return ((8, 128, 2), (16, 128, 4)) if rows > 1 and out_features < 16384 else ((8, 128, 4), (16, 128, 4))
    return (2, 128, 1), (4, 128, 2)


def why_not(problem: Problem) -> str | None:
    """What this kernel refuses, in words."""
    if problem.rows > MOST_ROWS:
        return f"takes up to {MOST_ROWS} rows"
    return "takes tensor and row scales, not group scales" if problem.scale == "group" else None


def rank(problem: Problem) -> int:
    """First, but for 3 and 4 rows where `small.py` can take its pieces in pairs."""
    paired = problem.layout == I2_PLANES.name and is_paired(problem)
    return 3 if problem.rows == MOST_ROWS and paired else 0
