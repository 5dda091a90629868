"""Ternary layers on the matrix units: Y^T = W X^T, so that W, unpacked in registers, is the operand read from there.

A program computes `block_m` rows by `block_n` outputs. Programs that share weights run `group` tiles of rows at a time,
so that the tiles of x stay in the second cache. x is int8 codes, in the order of chunks (see rows.py) or in natural
order, which is read in four pieces; or it is floats (A16), and W becomes floats too.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.order import inputs_of
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.target import multiprocessors, supports_pdl
from bitnet_jit.kernels.triton.device.unpack import join_planes
from bitnet_jit.kernels.triton.layout import CHUNK, is_paired, row_bytes
from bitnet_jit.kernels.triton.linear.epilogue import (
    flags,
    load_w_scale,
    load_x_scale,
    scale_operands,
    store_outputs,
    weight_unit,
)
from bitnet_jit.kernels.triton.linear.loads import load_step, prefetch, tile_of_program
from bitnet_jit.kernels.triton.linear.tiles import by_cost, fitting, heights, tiles_of, x_bytes
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class GemmConfig:
    """A tile of `block_m` rows by `block_n` outputs, `block_bytes` packed bytes at a time."""

    block_m: int
    block_n: int
    block_bytes: int
    group: int
    num_warps: int
    num_stages: int

    def shared_memory(self, element_bytes: int) -> int:
        """Return the bytes of shared memory that the pipeline takes for x of such elements."""
        return self.num_stages * self.block_bytes * (4 * self.block_m * element_bytes + self.block_n)


STAGES = {16: (8, 6, 3), 32: (6, 4, 4), 64: (4, 3, 3)}  # by the height of a deep tile: alone, by two, or more
MAX_PREFETCHED = 8 << 20  # bytes
MAX_SUMS, WARP = 128, 32  # that a thread's registers hold; threads
MIN_TILE = GemmConfig(16, 32, 64, 8, 4, 2)


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def gemm_kernel(
    x_ptr,  # (M, X_STRIDE) int8 codes or floats
    w_ptr,  # (N, B) uint8: i2/planes
    y_ptr,  # (M, N), or (SPLITS, M, N) int32
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    M,
    N,
    B,
    X_STRIDE,  # elements of a row of x: 4 B in the order of chunks, K in natural order
    NATURAL: tl.constexpr,
    WEIGHT: tl.constexpr,  # the operand of a weight of 1
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
    SPLITS: tl.constexpr,  # of K, each summed by itself (see split.py)
    FEW: tl.constexpr,  # there are fewer rows than in a tile
    PREFETCH: tl.constexpr,  # fetch W while the kernels ahead still run
    WHOLE: tl.constexpr,  # neither the bytes nor the inputs of a row end within a tile
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    m_tiles, n_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    split, program = tl.program_id(0) // (m_tiles * n_tiles), tl.program_id(0) % (m_tiles * n_tiles)
    first_m, first_n = tile_of_program(program, M, N, BLOCK_M, BLOCK_N, GROUP)
    m, n, packed_byte = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_B)[None, :]
    inputs = inputs_of(BLOCK_B, CHUNK, B, NATURAL)[None, :]
    X_STEP: tl.constexpr = 1 if NATURAL else 4  # elements of x that go with a packed byte
    length = tl.cdiv(tl.cdiv(B, BLOCK_B), SPLITS) * BLOCK_B
    first_byte = split * length
    # rows beyond the last are read as the last, or masked where they are many and reading one again and again is slow
    x_row = m if FEW else tl.minimum(m, M - 1 - first_m)
    x_ptr += first_m.to(tl.int64) * X_STRIDE + first_byte * X_STEP
    w_ptr += first_n.to(tl.int64) * B + first_byte
    x_ptrs = x_ptr + (x_row[:, None] * X_STRIDE + inputs)
    w_rows = w_ptr + tl.minimum(n, N - 1 - first_n) * B
    if PREFETCH:
        prefetch(w_rows, tl.maximum(tl.minimum(length, B - first_byte), 0))
    w_ptrs = w_rows[:, None] + packed_byte
    x_inside = (m < M)[:, None] if FEW else None
    m, n = first_m + m, first_n + n
    LATE: tl.constexpr = BLOCK_M * BLOCK_N >= 128 * 128  # there is no register for scales beside such sums
    if not LATE:
        w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
    gdc_wait(PDL)
    if not LATE:
        x_scale = load_x_scale(m, M, x_scale_ptr)
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    SUM: tl.constexpr = tl.int32 if tl.int8 == TYPE else tl.float32
    acc = tl.zeros((BLOCK_N, BLOCK_M), SUM)
    for start in tl.range(first_byte, tl.minimum(first_byte + length, B), BLOCK_B, num_stages=STAGES):
        packed, x = load_step(w_ptrs, x_ptrs, packed_byte, inputs, x_inside, start, B, X_STRIDE, X_STEP, WHOLE)
        w = join_planes(packed, BLOCK_B, CHUNK, TYPE, ASM)
        acc = tl.dot(w, tl.trans(x), acc, out_dtype=SUM, input_precision="ieee")
        w_ptrs += BLOCK_B
        x_ptrs += BLOCK_B * X_STEP
    y = tl.trans(acc >> 6 if tl.int8 == TYPE else acc * (1.0 / WEIGHT))
    if LATE:
        w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
        x_scale = load_x_scale(m, M, x_scale_ptr)
    y_ptr += split.to(tl.int64) * M * N
    store_outputs(y, first_m, m, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launch(
    problem: Problem, rows: int, config: GemmConfig, x: str, x_stride: int, natural: bool, splits: int = 1
) -> Launch:
    """Return the launch x (rows, x_stride), the operand of that name; w_packed in i2/planes -> y (rows, N).

    With several splits of K, their sums go to the operand partials (splits, rows, N) int32 instead.
    """
    num_bytes = row_bytes(problem.in_features)
    whole = num_bytes % config.block_bytes == 0 and x_stride == 4 * num_bytes
    return Launch(
        gemm_kernel,
        programs=tiles_of(problem, rows, config.block_m, config.block_n) * splits,
        operands=(x, "w_packed", *(("y", *scale_operands(problem)) if splits == 1 else ("partials", None, None, None))),
        constants={
            "M": rows,
            "N": problem.out_features,
            "B": num_bytes,
            "X_STRIDE": x_stride,
            "NATURAL": natural,
            "WEIGHT": weight_unit(problem),
            **flags(problem),
            "SPLITS": splits,
            "FEW": rows < config.block_m,
            "PREFETCH": prefetches(problem),
            "WHOLE": whole,
            "CHUNK": config.block_bytes if natural else min(CHUNK, config.block_bytes),
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "BLOCK_B": config.block_bytes,
            "GROUP": config.group,
            "STAGES": config.num_stages,
        },
        num_warps=config.num_warps,
    )


def configs(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return tiles by the number of rows and outputs that fit in the GPU, first the winner on an H200."""
    tiles = (*many_rows(problem), MIN_TILE) if problem.rows >= 128 else (*few_rows(problem), MIN_TILE)
    return fitting(problem, tiles, lambda config: config.shared_memory(1))


def many_rows(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return the largest tiles that give every multiprocessor one, and behind them the tiles for few rows."""
    group = 4 if problem.rows >= 1024 else 8
    large = [GemmConfig(m, n, 64, group, 4, 3) for m, n in ((128, 128), (64, 128), (128, 64))]
    wanted = multiprocessors(problem.gpu)
    enough = (tile for tile in large if tiles_of(problem, problem.rows, tile.block_m, tile.block_n) >= wanted)
    return (*enough, *few_rows(problem))


def few_rows(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return tiles of 64 outputs, as high as the rows, or lower if they would be few; deep tiles if they divide a row.

    Bytes on their way count: programs that share a multiprocessor have as many stages as fit beside each other.
    """
    block_m = tile_height(problem)
    if block_m == 64 and tiles_of(problem, problem.rows, 32) <= 1.25 * multiprocessors(problem.gpu):
        block_m = 32
    flat = (GemmConfig(block_m, 64, 64, 8, 4, 6), GemmConfig(block_m, 64, 64, 8, 4, 4), *other_tiles(problem))
    if not is_paired(problem):
        deep = GemmConfig(block_m, 64, 128, 8, 4, 3)
        return (deep, *flat) if problem.rows >= 256 else (*flat, deep)
    shared = triton.cdiv(tiles_of(problem, problem.rows, block_m), multiprocessors(problem.gpu))
    deep = GemmConfig(block_m, 64, 128, 8, 4, STAGES[block_m][min(shared, 3) - 1])
    if shared > 2 and block_m == 64:
        return GemmConfig(64, 128, 64, 8, 4, 4), deep, *flat
    return deep, *flat


def other_tiles(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return tiles lower than the rows, or narrower, or wider than most: other winners on an H200."""
    if problem.rows <= 32:
        wide = GemmConfig(tile_height(problem), 128, 128, 8, 4, 4)
        return wide, GemmConfig(16, 64, 128, 8, 4, 3), GemmConfig(16, 32, 128, 8, 4, 4)
    if tiles_of(problem, problem.rows, 64) <= 3 * multiprocessors(problem.gpu):
        group = 4 if problem.rows >= 1024 else 8
        low = GemmConfig(32, 64, 64, 4, 4, 3), GemmConfig(32, 64, 128, group, 4, 3)
        return (*low, GemmConfig(64, 64, 128, group, 4, 4))
    return (GemmConfig(64, 64, 64, 4, 4, 3),)


def space(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return tiles by the number of rows, of 4 warps, or of 8 where each thread still has 32 sums."""
    return tiles_to_try(problem, (64, 128), 1)


def float_space(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return tiles for float activations, which fill shared memory sooner."""
    return tiles_to_try(problem, (16,) if problem.x_dtype == "float32" else (32, 64, 128), x_bytes(problem))


def tiles_to_try(problem: Problem, depths: tuple[int, ...], element_bytes: int) -> tuple[GemmConfig, ...]:
    """Return tiles of these depths in packed bytes."""
    group = 4 if problem.rows >= 1024 else 8
    widths = (32, 64, 128, 256) if problem.rows >= 128 else (32, 64, 128)
    tiles = tuple(
        GemmConfig(block_m, block_n, block_bytes, group, num_warps, num_stages)
        for block_m, block_n, block_bytes in product(heights(problem), widths, depths)
        for num_warps in (4, 8)
        if num_warps == 4 or block_m * block_n >= 64 * 128
        if block_m * block_n <= MAX_SUMS * num_warps * WARP
        for num_stages in ((2, 3, 4) if block_bytes == 128 else (3, 4, 6))
    )
    return fitting(problem, tiles, lambda config: config.shared_memory(element_bytes))


def tile_height(problem: Problem) -> int:
    """Return the rows of a tile where rows are few."""
    return min(64, max(16, problem.rows))


def prefetches(problem: Problem) -> bool:
    """Return whether W is small enough to be fetched into the second cache, and rows are so few that it counts."""
    num_bytes = problem.out_features * row_bytes(problem.in_features)
    return supports_pdl(problem.gpu) and problem.rows <= 64 and num_bytes <= MAX_PREFETCHED


def float_configs(problem: Problem) -> tuple[GemmConfig, ...]:
    """Return tiles for float activations, whose elements take two bytes or four."""
    if problem.x_dtype == "float32":
        return GemmConfig(16, 32, 16, 8, 4, 2), GemmConfig(16, 64, 16, 8, 4, 2)
    if problem.rows <= 16:
        stages = (4, 6) if problem.in_features > 6144 else (6, 4)
        deep = tuple(GemmConfig(16, 32, 128, 8, 4, number) for number in stages)
        flat = (GemmConfig(16, 32, 64, 8, 4, 6),)
        tiles = (*deep, *flat) if problem.in_features >= 4096 else (*flat, *deep)
    else:
        alone = tiles_of(problem, problem.rows, 64) <= multiprocessors(problem.gpu)
        costs = {  # of an output, on an H200
            GemmConfig(256, 128, 32, 8, 8, 3): 0.84,
            GemmConfig(128, 64, 32, 8, 4, 3): 1.0,
            GemmConfig(64, 64, 64, 8, 4, 4 if alone else 3): 1.35,
            GemmConfig(32, 64, 32, 8, 4, 4): 1.7,
        }
        most = problem.rows
        least = 64 if most >= 64 and problem.in_features >= 4096 else 32  # short runs of long rows: 1.3 times slower
        tiles = by_cost(problem, {tile: cost for tile, cost in costs.items() if least <= tile.block_m <= most})
    return fitting(problem, (*tiles, MIN_TILE), lambda config: config.shared_memory(2))
