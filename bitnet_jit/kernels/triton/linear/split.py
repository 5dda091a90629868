"""Ternary layers where few tiles would keep few multiprocessors busy: `gemm.py` on several pieces of K at once.

Each piece leaves its int32 sums in scratch memory, and a second kernel adds them up and scales them. Two launches and
no atomics: no counter has to be reset, and sums of integers do not depend on an order.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch, Scratch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.target import multiprocessors, supports_pdl
from bitnet_jit.kernels.triton.layout import is_paired, row_bytes
from bitnet_jit.kernels.triton.linear import gemm
from bitnet_jit.kernels.triton.linear.epilogue import load_w_scale, load_x_scale, scale_operands, store_outputs
from bitnet_jit.kernels.triton.linear.gemm import GemmConfig
from bitnet_jit.kernels.triton.linear.tiles import fitting, tiles_of
from bitnet_jit.problem import Problem

MIN_ROWS, MAX_ROWS = 3, 512
MIN_BYTES = (384, 512)  # of a row of W, in a piece: up to 16 rows of x, and beyond
BLOCK = 512  # outputs of a program that adds up


@dataclass(frozen=True)
class SplitConfig:
    """A tile of `gemm.py`, and the number of pieces of K."""

    tile: GemmConfig
    splits: int


@triton.jit(do_not_specialize=["M"])
def add_kernel(
    partials_ptr,  # (SPLITS, M, N) int32
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    M,
    N,
    SPLITS: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    blocks = tl.cdiv(N, BLOCK)
    row, n = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    m = tl.full((1,), 0, tl.int32) + row
    w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
    gdc_wait(PDL)
    x_scale = load_x_scale(m, M, x_scale_ptr)
    partials_ptr += row.to(tl.int64) * N
    y = tl.zeros((BLOCK,), tl.int32)
    for split in tl.static_range(SPLITS):
        y += tl.load(partials_ptr + tl.cast(split, tl.int64) * M * N + n, mask=n < N, other=0)
    store_outputs(y[None, :], row, m, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launches(
    problem: Problem, rows: int, config: SplitConfig, x: str, x_stride: int, natural: bool
) -> tuple[Launch, ...]:
    """Return the launches x (rows, x_stride) int8, the operand of that name; w_packed in i2/planes -> partials -> y."""
    add = Launch(
        add_kernel,
        programs=rows * triton.cdiv(problem.out_features, BLOCK),
        operands=("partials", "y", *scale_operands(problem)),
        constants={
            "M": rows,
            "N": problem.out_features,
            "SPLITS": config.splits,
            "ROW_SCALES": problem.scale == "row",
            "PDL": supports_pdl(problem.gpu),
            "BLOCK": BLOCK,
        },
        num_warps=4,
    )
    return gemm.launch(problem, rows, config.tile, x, x_stride, natural, config.splits), add


def scratch(problem: Problem, rows: int, config: SplitConfig) -> Scratch:
    """Return the scratch tensor for the sums of all pieces."""
    return {"partials": (config.splits * rows * problem.out_features, "int32")}


def configs(problem: Problem) -> tuple[SplitConfig, ...]:
    """Return as many pieces as the multiprocessors take in two turns, but none too short, the likeliest best first."""
    block_m, most = gemm.tile_height(problem), max(2, pieces(problem))
    tiles = [GemmConfig(block_m, 64, 128, 8, 4, 3)] if block_m == 64 and is_paired(problem) else []
    tiles += [GemmConfig(block_m, 64, 128, 8, 4, num_stages) for num_stages in (6, 4)] if block_m < 64 else []
    tiles += [GemmConfig(block_m, 64, 64, 8, 4, num_stages) for num_stages in (6, 4, 2)]
    pairs = [(most, tile) for tile in tiles] + [(n, tile) for n in (max(2, most // 2), most + 1) for tile in tiles[:2]]
    splits = tuple(SplitConfig(tile, n) for n, tile in dict.fromkeys(pairs))
    return fitting(problem, splits, lambda config: config.tile.shared_memory(1))


def space(problem: Problem) -> tuple[SplitConfig, ...]:
    """Return splits into pieces of at least 256 bytes of a row, in tiles of 32 and 64 outputs."""
    tiles = [
        GemmConfig(gemm.tile_height(problem), block_n, block_bytes, 8, 4, num_stages)
        for block_n, block_bytes, num_stages in product((32, 64), (64, 128), (3, 4, 6))
    ]
    most = row_bytes(problem.in_features) // 256
    configs = tuple(SplitConfig(tile, splits) for tile in tiles for splits in (2, 3, 4, 6, 8, 12) if splits <= most)
    return fitting(problem, configs, lambda config: config.tile.shared_memory(1)) if configs else ()


def tiles_of_piece(problem: Problem) -> int:
    """Return the number of tiles of a piece of K."""
    return tiles_of(problem, problem.rows, gemm.tile_height(problem))


def pieces(problem: Problem) -> int:
    """Return how many pieces of K pay."""
    most = 2 * multiprocessors(problem.gpu) // tiles_of_piece(problem)
    return min(most, row_bytes(problem.in_features) // MIN_BYTES[problem.rows > 16])


def priority(problem: Problem) -> int:
    """Come before `gemm.py` where rows of W are long and its tiles few."""
    if not 9 <= problem.rows <= 128 or problem.in_features < 6144 or pieces(problem) < 2:
        return -4
    return 0 if tiles_of_piece(problem) <= 96 or problem.rows >= 64 else -4
