"""Ternary layers with scales of groups for many rows of floats: the planes of a tile of W one after the other.

As in planes.py each plane is a product of its own with one scale per output and group; here tiles have many outputs, so
that x, which takes most of the way from the second cache, is read few times. x is in natural order.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.unpack import operand
from bitnet_jit.kernels.triton.linear.epilogue import load_w_scale, store_outputs
from bitnet_jit.kernels.triton.linear.group_small import block_bytes, constants_of
from bitnet_jit.kernels.triton.linear.loads import load_inside, tile_of_program
from bitnet_jit.kernels.triton.linear.tiles import ELEMENT_BYTES, fitting, heights, tiles_of
from bitnet_jit.problem import Problem

MIN_ROWS = 128


@dataclass(frozen=True)
class GroupGemmConfig:
    """A tile of `block_m` rows by `block_n` outputs; programs take `group` tiles of rows with the same weights."""

    block_m: int
    block_n: int
    block_bytes: int
    group: int
    num_warps: int
    num_stages: int

    def shared_memory(self, element_bytes: int) -> int:
        """Return the bytes of shared memory that the pipeline takes."""
        return self.num_stages * self.block_bytes * (4 * self.block_m * element_bytes + self.block_n)


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def group_gemm_kernel(
    x_ptr,  # (M, K) float
    w_ptr,  # (N, B) uint8: i2/planes
    y_ptr,  # (M, N)
    group_scale_ptr,  # (N, GROUPS) float32
    bias_ptr,  # (N,)
    M,
    N,
    B,
    K,
    GROUPS,
    GROUP_SIZE: tl.constexpr,  # inputs, a multiple of BLOCK_B
    WEIGHT: tl.constexpr,  # the operand of a weight of 1
    ASM: tl.constexpr,
    PDL: tl.constexpr,
    WHOLE: tl.constexpr,  # neither the bytes nor the inputs of a row end within a step
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    first_m, first_n = tile_of_program(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    m, n, byte = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_B)[None, :]
    n_row = tl.minimum(n, N - 1 - first_n)
    x_ptr += first_m.to(tl.int64) * K
    x_ptrs = x_ptr + (tl.minimum(m, M - 1 - first_m)[:, None] * K + byte)  # rows behind the last are read as the last
    w_ptr += first_n.to(tl.int64) * B
    w_ptrs = w_ptr + (n_row[:, None] * B + byte)
    scale_ptrs = group_scale_ptr + (first_n + n_row).to(tl.int64) * GROUPS
    m, n = first_m + m, first_n + n
    gdc_wait(PDL)
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    zeros = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(0, B, BLOCK_B, num_stages=STAGES):
        packed, scales = tl.load(w_ptrs), ()
        for plane in tl.static_range(4):  # before the products, which hide their latency
            group = (plane * B + start) // GROUP_SIZE
            scale = tl.load(scale_ptrs + group, mask=group < GROUPS, other=0.0)
            scales = scales + (scale * (1.0 / WEIGHT),)
        for plane in tl.static_range(4):
            x = load_inside(x_ptrs + plane * B, byte < K - plane * B - start, WHOLE)
            w = operand(packed, plane, TYPE, ASM)
            acc += tl.dot(w, tl.trans(x), zeros, input_precision="ieee") * scales[plane][:, None]
        w_ptrs += BLOCK_B
        x_ptrs += BLOCK_B
    _, bias = load_w_scale(n, N, None, bias_ptr, False)
    store_outputs(tl.trans(acc), first_m, m, n, M, N, y_ptr, 1.0, 1.0, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: GroupGemmConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """Return the launch x (rows, K) floats, the operand of that name; w_packed in i2/planes -> y (rows, N)."""
    return Launch(
        group_gemm_kernel,
        programs=tiles_of(problem, rows, config.block_m, config.block_n),
        operands=(x, "w_packed", "y", "w_scale", "bias" if problem.bias else None),
        constants={
            **constants_of(problem, rows, config.block_bytes),
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "BLOCK_B": config.block_bytes,
            "GROUP": config.group,
            "STAGES": config.num_stages,
        },
        num_warps=config.num_warps,
    )


def configs(problem: Problem) -> tuple[GroupGemmConfig, ...]:
    """Return the tiles that fit in the GPU, first the winner on an H100."""
    tiles = ((128, 128, 64, 8, 8, 3), (128, 128, 64, 8, 8, 2), (128, 64, 64, 8, 8, 3), (64, 128, 64, 8, 8, 3))
    return fit(problem, tuple(GroupGemmConfig(*tile) for tile in (*tiles, (16, 64, 64, 8, 4, 2))))


def space(problem: Problem) -> tuple[GroupGemmConfig, ...]:
    """Return tiles whose sums take at most half of a thread's registers."""
    tiles = product(heights(problem), (64, 128), {64, block_bytes(problem)}, (8,), (4, 8), (2, 3, 4))
    held = tuple(GroupGemmConfig(*tile) for tile in tiles if 1024 <= tile[0] * tile[1] // tile[4] <= 2048)
    return fit(problem, held)


def fit(problem: Problem, tiles: tuple[GroupGemmConfig, ...]) -> tuple[GroupGemmConfig, ...]:
    """Return the tiles that fit in the GPU."""
    return fitting(problem, tiles, lambda config: config.shared_memory(ELEMENT_BYTES[problem.x_dtype]))
