"""Ternary layers for a few rows of x with weights in t5 (1.6 bits): as `gemv.py`, with digits instead of fields.

    y[m, n] = float32(sum over words w and planes s of dot4(digit s of W[n, w] - 1, x[m, s B + 4 w ..])) * scales + bias

The number that the first s + 1 digits make, less three times that of the first s, is digit s: no borrow crosses a byte.
The 1 is taken off by a product of x with bytes of -1.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.codes import dot_bytes, let_next_begin, t5_carries, wait
from bitnet_jit.kernels.triton.launch import Launch
from bitnet_jit.kernels.triton.layout import T5_PLANES, row_bytes
from bitnet_jit.kernels.triton.outputs import load_scales, scale_operands, store_outputs
from bitnet_jit.kernels.triton.target import is_dependent, is_nvidia
from bitnet_jit.problem import Problem

MOST_ROWS = 4
MOST_STEPS = 8


@dataclass(frozen=True)
class T5GemvConfig:
    """A program computes `block_n` outputs, `block_words` words of 20 weights at a time; its loop is unrolled."""

    block_n: int
    block_words: int
    num_warps: int


@triton.jit
def gemv_t5_kernel(
    x_ptr,  # (M, X_WORDS) int32: x_q in natural order, four codes a word
    w_ptr,  # (N, WORDS) int32: t5/planes
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    N,
    WORDS: tl.constexpr,
    X_WORDS: tl.constexpr,  # of a row of x, at most 5 * WORDS
    M: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    let_next_begin(DEPENDENT)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
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
        for plane in tl.static_range(5):
            carries = t5_carries(weights[step], plane)
            digits, before, sums = carries - 3 * before, carries, ()
            k = plane * WORDS + step * BLOCK_WORDS + words
            mask = inside if X_WORDS == 5 * WORDS else inside & (k < X_WORDS)
            for m in tl.static_range(M):
                x = tl.load(x_ptr + m * X_WORDS + k, mask=mask, other=0)
                sums = sums + (dot_bytes(minus_one, x, dot_bytes(digits, x, acc[m], ASM), ASM),)
            acc = sums
    for m in tl.static_range(M):
        x_scale, w_scale, bias = scales[m]
        y = tl.sum(acc[m], axis=1)[None, :]
        store_outputs(y, tl.full((1,), m, tl.int32), n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: T5GemvConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """x (rows, x_stride) int8 in natural order, the operand of that name; w_packed in t5/planes -> y (rows, N).

    x_stride is a multiple of 4.
    """
    asm, dependent = is_nvidia(problem.gpu), is_dependent(problem.gpu)
    return Launch(
        gemv_t5_kernel,
        programs=triton.cdiv(problem.out_features, config.block_n),
        operands=(f"{x}:int32", "w_packed:int32", "y", *scale_operands(problem)),
        constants={
            "N": problem.out_features,
            "WORDS": row_bytes(problem.in_features, 5) // 4,
            "X_WORDS": x_stride // 4,
            "M": rows,
            "ROW_SCALES": problem.scale == "row",
            "ASM": asm,
            "DEPENDENT": dependent,
            "BLOCK_N": config.block_n,
            "BLOCK_WORDS": config.block_words,
        },
        num_warps=config.num_warps,
        dependent=dependent,
    )


def configs(problem: Problem) -> tuple[T5GemvConfig, ...]:
    """Tiles by the length of a row, in at most 8 steps, the likeliest best first."""
    words = row_bytes(problem.in_features, 5) // 4
    block_words = max(64, triton.next_power_of_2(triton.cdiv(words, MOST_STEPS)))
    block_n = max(1, 512 // block_words)
    return T5GemvConfig(block_n, block_words, 2), T5GemvConfig(2 * block_n, block_words, 4)


def why_not(problem: Problem) -> str | None:
    """What this kernel refuses, in words."""
    if problem.layout != T5_PLANES.name:
        return f"reads the layout {T5_PLANES.name}, not {problem.layout!r}"
    return f"takes up to {MOST_ROWS} rows" if problem.rows > MOST_ROWS else None
