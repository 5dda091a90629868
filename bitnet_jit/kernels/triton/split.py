"""Ternary layers where few tiles would keep few multiprocessors busy: `gemm.py` on several pieces of K at once.

Each piece leaves its int32 sums in scratch memory, and a second kernel adds them up and scales them. Two launches and
no atomics: there is no counter to reset, no order in which sums arrive, and integers have one sum only.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from bitnet_jit.kernels.triton import gemm
from bitnet_jit.kernels.triton.codes import let_next_begin, wait
from bitnet_jit.kernels.triton.gemm import GemmConfig
from bitnet_jit.kernels.triton.launch import Launch, Scratch
from bitnet_jit.kernels.triton.layout import row_bytes
from bitnet_jit.kernels.triton.outputs import load_scales, scale_operands, store_outputs
from bitnet_jit.kernels.triton.target import is_dependent
from bitnet_jit.kernels.triton.tiles import fitting
from bitnet_jit.problem import Problem

FEWEST_ROWS, MOST_ROWS = 3, 512
BLOCK = 512  # outputs of a program that adds up


@dataclass(frozen=True)
class SplitConfig:
    """Tiles as `gemm.py` has them, and the number of pieces of K."""

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
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    let_next_begin(DEPENDENT)
    blocks = tl.cdiv(N, BLOCK)
    row, n = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    m = tl.full((1,), 0, tl.int32) + row
    wait(DEPENDENT)
    x_scale, w_scale, bias = load_scales(m, n, M, N, x_scale_ptr, w_scale_ptr, bias_ptr, ROW_SCALES)
    partials_ptr += row.to(tl.int64) * N
    y = tl.zeros((BLOCK,), tl.int32)
    for split in tl.static_range(SPLITS):
        y += tl.load(partials_ptr + tl.cast(split, tl.int64) * M * N + n, mask=n < N, other=0)
    store_outputs(y[None, :], m, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launches(
    problem: Problem, rows: int, config: SplitConfig, x: str, x_stride: int, natural: bool
) -> tuple[Launch, ...]:
    """x (rows, x_stride) int8, the operand of that name; w_packed in i2/planes -> partials, then y (rows, N)."""
    add = Launch(
        add_kernel,
        programs=rows * triton.cdiv(problem.out_features, BLOCK),
        operands=("partials", "y", *scale_operands(problem)),
        constants={
            "M": rows,
            "N": problem.out_features,
            "SPLITS": config.splits,
            "ROW_SCALES": problem.scale == "row",
            "DEPENDENT": is_dependent(problem.gpu),
            "BLOCK": BLOCK,
        },
        num_warps=4,
    )
    return gemm.launch(problem, rows, config.tile, x, x_stride, natural, config.splits), add


def scratch(problem: Problem, rows: int, config: SplitConfig) -> Scratch:
    """The sums of all pieces."""
    return {"partials": (config.splits * rows * problem.out_features, "int32")}


def configs(problem: Problem) -> tuple[SplitConfig, ...]:
    """As many pieces as bring the tiles near the number of multiprocessors, the likeliest best first."""
    block_m = min(64, max(16, problem.rows))
    tiles = gemm.tiles_of(problem, problem.rows, GemmConfig(block_m, 64, 64, 8, 4, 4))
    steps = triton.cdiv(row_bytes(problem.in_features), 64)
    most = max(2, min(8, gemm.multiprocessors(problem) // tiles, steps))
    found = tuple(
        SplitConfig(GemmConfig(block_m, 64, 64, 8, 4, num_stages), splits)
        for splits in dict.fromkeys((most, max(2, most // 2)))
        for num_stages in (4, 3, 2)
    )
    return fitting(problem, found, lambda config: config.tile.shared_memory(1))


def why_not(problem: Problem) -> str | None:
    """What this kernel refuses of the number of rows, in words."""
    if not FEWEST_ROWS <= problem.rows <= MOST_ROWS:
        return f"takes {FEWEST_ROWS} to {MOST_ROWS} rows"
    return None


def rank(problem: Problem) -> int:
    """Behind `gemm.py`: it has not been timed yet."""
    return 3
