"""Ternary layers for a few rows of x: dot products of four bytes, every weight loaded before the first is used.

    y[m, n] = float32(sum over words w and planes s of dot4(weights s of W[n, w], x[m, s B + 4 w ..])) * scales + bias

A field of i2 at the top of its byte counts 64 times the weight: partial sums are shifted back before they are added up.
A digit of t5 is the weight + 1: a second product, of x with bytes of -1, takes the 1 off.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.unpack import FIELDS, t5_carries
from bitnet_jit.kernels.triton.layout import I2_PLANES, PLANES, row_words
from bitnet_jit.kernels.triton.linear.epilogue import flags, load_w_scale, load_x_scale, scale_operands, store_outputs
from bitnet_jit.kernels.triton.linear.loads import load_inside
from bitnet_jit.problem import Problem

MAX_ROWS = 4
MAX_STEPS = 16
Tile = tuple[int, int, int, int]  # the fields of a config


@dataclass(frozen=True)
class GemvConfig:
    """A program computes `block_n` outputs, `block_words` words of 16 or 20 weights at a time; its loop is unrolled.

    `max_registers` of a thread is for NVIDIA's compiler (see `Launch`).
    """

    block_n: int
    block_words: int
    num_warps: int
    max_registers: int


@triton.jit
def codes_of(words, before, PLANE: tl.constexpr, PLANES: tl.constexpr):
    """Return the bytes of one plane to multiply, in words, and the carries that the next plane needs of this one."""
    if PLANES == 4:
        codes = (words << (6 - 2 * PLANE)) & FIELDS
    else:
        carries = t5_carries(words, PLANE)
        codes = carries - 3 * before  # no borrow crosses a byte
        before = carries
    return codes, before


@triton.jit
def dot_bytes(a, b, acc, ASM: tl.constexpr):
    """Return acc + the products of the four int8 in each word of a and b."""
    if ASM:
        acc = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, acc], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for byte in tl.static_range(4):
            acc += ((a << (24 - 8 * byte)) >> 24) * ((b << (24 - 8 * byte)) >> 24)
    return acc


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
    PDL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    first_n, n = tl.program_id(0) * BLOCK_N, tl.arange(0, BLOCK_N)
    # a tile of addresses, not a row of them: x comes in the layout of the weights, without a detour by shared memory
    words = tl.arange(0, BLOCK_WORDS)[None, :] + tl.zeros((BLOCK_N, 1), tl.int32)
    w_ptr += first_n.to(tl.int64) * WORDS
    w_ptrs = w_ptr + (tl.minimum(n, N - 1 - first_n)[:, None] * WORDS + words)
    n, weights, acc = first_n + n, (), ()
    for start in tl.static_range(0, WORDS, BLOCK_WORDS):
        mask = words < WORDS - start
        weights = weights + (load_inside(w_ptrs + start, mask, start + BLOCK_WORDS <= WORDS, "evict_first"),)
    w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
    gdc_wait(PDL)
    for _ in tl.static_range(M):
        acc = acc + (tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32),)
    minus_one = tl.full((BLOCK_N, BLOCK_WORDS), -1, tl.int32)  # in each byte
    for step in tl.static_range(len(weights)):
        whole = (step + 1) * BLOCK_WORDS <= WORDS and X_WORDS == PLANES * WORDS
        before, codes, sums = tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32), (), ()
        for plane in tl.static_range(PLANES):
            code, before = codes_of(weights[step], before, plane, PLANES)
            codes = codes + (code,)
        for m in tl.static_range(M):
            xs, total = (), acc[m]
            for plane in tl.static_range(PLANES):
                k = plane * WORDS + step * BLOCK_WORDS + words
                mask = (words < WORDS - step * BLOCK_WORDS) & (k < X_WORDS)
                xs = xs + (load_inside(x_ptr + m * X_WORDS + k, mask, whole),)
            for plane in tl.static_range(PLANES):
                total = dot_bytes(codes[plane], xs[plane], total, ASM)
                total = total if PLANES == 4 else dot_bytes(minus_one, xs[plane], total, ASM)
            sums = sums + (total,)
        acc = sums
    for m in tl.static_range(M):
        y = tl.sum(acc[m] >> 6 if PLANES == 4 else acc[m], axis=1)[None, :]
        row = tl.full((1,), m, tl.int32)
        x_scale = load_x_scale(row, M, x_scale_ptr)
        store_outputs(y, m, row, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: GemvConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """Return the launch x (rows, x_stride) int8 in natural order, the operand of that name; w_packed -> y (rows, N).

    x_stride is a multiple of 4.
    """
    return Launch(
        gemv_kernel,
        programs=triton.cdiv(problem.out_features, config.block_n),
        operands=(f"{x}:int32", "w_packed:int32", "y", *scale_operands(problem)),
        constants={
            "N": problem.out_features,
            "WORDS": row_words(problem),
            "X_WORDS": x_stride // 4,
            "PLANES": PLANES[problem.layout],
            "M": rows,
            **flags(problem),
            "BLOCK_N": config.block_n,
            "BLOCK_WORDS": config.block_words,
        },
        num_warps=config.num_warps,
        max_registers=config.max_registers,
    )


def configs(problem: Problem) -> tuple[GemvConfig, ...]:
    """Return tiles by the length of a row, in at most 16 steps, first the winner on an H200."""
    words = row_words(problem)
    if words <= 2048:
        tiles = many_outputs(words) if problem.out_features >= 8192 or words > 448 else few_outputs(problem, words)
        return tuple(GemvConfig(*tile) for tile in tiles)
    block_words = triton.next_power_of_2(triton.cdiv(words, MAX_STEPS))
    block_n = max(1, 512 // block_words)
    return GemvConfig(block_n, block_words, 2, 255), GemvConfig(2 * block_n, block_words, 4, 168)


def many_outputs(words: int) -> tuple[Tile, ...]:
    """Return tiles for programs that share a multiprocessor: there few registers beat many loads at once."""
    if words <= 192:
        return (8, 32, 1, 128), (16, 32, 2, 104), (8, 64, 2, 168)
    if words <= 320:
        return (8, 64, 1, 104), (8, 128, 2, 128), (16, 128, 4, 128)
    return (8, 128, 4, 128), (4, 128, 1, 104), (2, 128, 1, 128), (4, 512, 4, 168)


def few_outputs(problem: Problem, words: int) -> tuple[Tile, ...]:
    """Return tiles for programs that have a multiprocessor each, or nearly."""
    rows, out_features, is_i2 = problem.rows, problem.out_features, problem.layout == I2_PLANES.name
    if words > 192:
        registers = 104 if rows == 1 and is_i2 else 168 if words > 320 else 128
        return (8, 128, 4, registers), (4, 256, 4, 88), (2, 128, 1, 168)
    short, tall = (4, 128, 4, 168), (8, 128, 4, 128 if out_features >= 3072 else 168)
    if rows == 1 and is_i2:
        return (8, 32, 1, 168), short, tall, (16, 32, 4, 168)
    if rows == 1:
        return ((16, 128, 4, 168), tall, short) if out_features >= 6144 else ((8, 64, 4, 168), tall, short)
    more = (4, 64, 2, 168), (16, 64, 8, 104), (8, 128, 8, 168)
    most_short = 1024 if rows > 2 and is_i2 else 3072
    return (short, tall, *more) if out_features < most_short else (tall, short, *more)


def space(problem: Problem) -> tuple[GemvConfig, ...]:
    """Return tiles of 4 to 16 words per thread, at most 96 words per thread in all steps."""
    words = row_words(problem)
    candidates = (
        GemvConfig(*tile) for tile in product((2, 4, 8, 16), (32, 64, 128, 256, 512), (1, 2, 4, 8), (104, 168))
    )
    return tuple(config for config in candidates if is_sensible(config, words))


def is_sensible(config: GemvConfig, words: int) -> bool:
    """Return whether threads have enough to load at once, and no more than registers hold."""
    held = config.block_n * config.block_words // (32 * config.num_warps)  # by a thread, in one step
    steps = triton.cdiv(words, config.block_words)
    return 4 <= held <= 16 and steps <= MAX_STEPS and held * steps <= 96 and config.block_words < 2 * words


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    return f"takes up to {MAX_ROWS} rows" if problem.rows > MAX_ROWS else None


def priority(problem: Problem) -> int:
    """Come first, but for 3 and 4 rows of the largest layers."""
    large = problem.out_features * problem.in_features >= 50_000_000
    return -3 if problem.layout == I2_PLANES.name and problem.rows > 2 and large else 0
