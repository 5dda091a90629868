"""Ternary layers for 3 to 16 rows of x: small tiles on the matrix units, with several pieces of K side by side.

A program computes all rows by `block_n` outputs, `pieces` times `block_bytes` packed bytes at a time. The pieces are
the batch of a batched product, which lands on different warps; their sums are added up at the end, in the program: K
is split and nothing passes through memory. x is in the order of chunks or in natural order, as for `gemm.py`.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.order import inputs_of
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.target import multiplies_eight_rows
from bitnet_jit.kernels.triton.device.unpack import join_planes
from bitnet_jit.kernels.triton.layout import CHUNK, row_bytes
from bitnet_jit.kernels.triton.linear.epilogue import flags, load_w_scale, load_x_scale, scale_operands, store_outputs
from bitnet_jit.kernels.triton.linear.loads import load_step
from bitnet_jit.kernels.triton.linear.tiles import fitting
from bitnet_jit.problem import Problem

MIN_ROWS, MAX_ROWS = 3, 16


@dataclass(frozen=True)
class SmallConfig:
    """A tile of all rows by `block_n` outputs, `pieces` times `block_bytes` (a multiple of 64) at a time."""

    block_n: int
    block_bytes: int
    pieces: int
    num_warps: int
    num_stages: int

    def shared_memory(self, block_m: int) -> int:
        """Return the bytes of shared memory that the pipeline takes."""
        return self.num_stages * self.pieces * self.block_bytes * (4 * block_m + self.block_n)


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def small_kernel(
    x_ptr,  # (M, X_STRIDE) int8 codes
    w_ptr,  # (N, B) uint8: i2/planes
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    M,
    N,
    B,
    X_STRIDE,  # elements of a row of x: 4 B in the order of chunks, K in natural order
    NATURAL: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
    WHOLE: tl.constexpr,  # neither the bytes nor the inputs of a row end within a step
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    first_n = tl.program_id(0) * BLOCK_N
    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    x_inside = (m < M)[None, :, None]
    X_STEP: tl.constexpr = 1 if NATURAL else 4  # elements of x that go with a packed byte
    first_byte = tl.arange(0, PIECES)[:, None, None] * BLOCK_B
    packed_byte = first_byte + tl.arange(0, BLOCK_B)[None, None, :]
    inputs = first_byte * X_STEP + inputs_of(BLOCK_B, CHUNK, B, NATURAL)[None, None, :]
    w_ptr += first_n.to(tl.int64) * B
    x_ptrs = x_ptr + (m[None, :, None] * X_STRIDE + inputs)
    w_ptrs = w_ptr + (tl.minimum(n, N - 1 - first_n)[None, :, None] * B + packed_byte)
    n = first_n + n
    w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
    gdc_wait(PDL)
    x_scale = load_x_scale(m, M, x_scale_ptr)
    acc = tl.zeros((PIECES, BLOCK_N, BLOCK_M), tl.int32)
    for start in tl.range(0, B, PIECES * BLOCK_B, num_stages=STAGES):
        packed, x = load_step(w_ptrs, x_ptrs, packed_byte, inputs, x_inside, start, B, X_STRIDE, X_STEP, WHOLE)
        w = join_planes(packed, BLOCK_B, CHUNK, tl.int8, ASM)
        acc = tl.dot(w, tl.permute(x, (0, 2, 1)), acc, out_dtype=tl.int32)
        w_ptrs += PIECES * BLOCK_B
        x_ptrs += PIECES * BLOCK_B * X_STEP
    y = tl.trans(tl.sum(acc >> 6, axis=0))
    store_outputs(y, 0, m, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: SmallConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """Return the launch x (rows, x_stride) int8, the operand of that name; w_packed in i2/planes -> y (rows, N)."""
    num_bytes = row_bytes(problem.in_features)
    whole = num_bytes % (config.pieces * config.block_bytes) == 0 and x_stride == 4 * num_bytes
    return Launch(
        small_kernel,
        programs=triton.cdiv(problem.out_features, config.block_n),
        operands=(x, "w_packed", "y", *scale_operands(problem)),
        constants={
            "M": rows,
            "N": problem.out_features,
            "B": num_bytes,
            "X_STRIDE": x_stride,
            "NATURAL": natural,
            **flags(problem),
            "WHOLE": whole,
            "CHUNK": config.block_bytes if natural else CHUNK,
            "BLOCK_M": block_m(problem),
            "BLOCK_N": config.block_n,
            "BLOCK_B": config.block_bytes,
            "PIECES": config.pieces,
            "STAGES": config.num_stages,
        },
        num_warps=config.num_warps,
    )


def block_m(problem: Problem) -> int:
    """Return the height of the tile."""
    return 8 if problem.rows <= 8 and multiplies_eight_rows(problem.gpu) else 16


def configs(problem: Problem) -> tuple[SmallConfig, ...]:
    """Return the configs, first the winner on an H200, with longer pieces where they divide the bytes of a row."""
    num_bytes = row_bytes(problem.in_features)
    tiles = SmallConfig(16, 64, 2, 2, 6), SmallConfig(16, 64, 2, 2, 4), SmallConfig(32, 64, 2, 4, 4)
    tiles = (SmallConfig(16, 64, 4, 4, 4), *tiles) if num_bytes >= 1024 else (*tiles, SmallConfig(16, 64, 2, 2, 2))
    if num_bytes % 256 == 0:
        stages = 3 if num_bytes == 2048 or problem.rows > 8 else 4
        four, two = SmallConfig(16, 128, 4, 4, stages), SmallConfig(16, 128, 2, 2, 3)
        tiles += SmallConfig(32, 128, 2, 2, 4), SmallConfig(32, 128, 4, 4, 6)
        tiles = (two, four, *tiles) if problem.out_features >= 8192 and num_bytes <= 1024 else (four, two, *tiles)
    return fitting(problem, tiles, lambda config: config.shared_memory(block_m(problem)))


def space(problem: Problem) -> tuple[SmallConfig, ...]:
    """Return tiles with a warp for each piece, or for each 16 outputs of one; no step is longer than a row."""
    num_bytes, sizes = row_bytes(problem.in_features), product((16, 32), (64, 128), (2, 4, 8))
    tiles = tuple(
        SmallConfig(block_n, block_bytes, pieces, num_warps, num_stages)
        for block_n, block_bytes, pieces in sizes
        for num_warps in {pieces, pieces * block_n // 16}
        for num_stages in (2, 3, 4, 6)
        if pieces * block_bytes <= num_bytes and num_warps <= 8
    )
    return fitting(problem, tiles, lambda config: config.shared_memory(block_m(problem))) if tiles else ()


def priority(problem: Problem) -> int:
    """Come before `gemm.py` up to 8 rows, but for many outputs, each a short product."""
    short = problem.out_features > 8192 or problem.out_features >= 6144 and problem.in_features < 4096
    return -3 if problem.rows > 8 or short else -1


def late(problem: Problem) -> bool:
    """Return whether to begin late: few programs would gather on few multiprocessors beside the kernels ahead."""
    return problem.out_features <= 4096
