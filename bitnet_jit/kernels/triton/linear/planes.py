"""Ternary layers plane by plane: the planes of packed bytes are multiplied one after another, each with its part of x.

Two things need that. Scales of groups: a chunk of 64 packed bytes holds runs of 64 inputs, and where groups are whole
runs, each run is one product with one scale per output. The groups' floats are added in the order of chunks, so the
last bits of y may differ from other backends; they are the same for every number of rows. And t5, whose five planes
cannot be joined as the four of i2 are. x is in natural order, codes or floats.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.target import multiprocessors
from bitnet_jit.kernels.triton.device.unpack import operand, t5_operand
from bitnet_jit.kernels.triton.layout import CHUNK, PLANES, row_bytes
from bitnet_jit.kernels.triton.linear.epilogue import (
    flags,
    load_w_scale,
    load_x_scale,
    scale_operands,
    store_outputs,
    weight_unit,
)
from bitnet_jit.kernels.triton.linear.refusals import runs_unsupported_reason
from bitnet_jit.kernels.triton.linear.tiles import by_cost, fitting, heights, tiles_of, x_bytes
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class PlanesConfig:
    """A tile of `block_m` rows by `block_n` outputs, one chunk of packed bytes at a time."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def shared_memory(self, element_bytes: int) -> int:
        """Return the bytes of shared memory that the pipeline takes for x of such elements."""
        return self.num_stages * CHUNK * (5 * self.block_m * element_bytes + self.block_n)


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def planes_kernel(
    x_ptr,  # (M, X_STRIDE) int8 codes or floats, in natural order
    w_ptr,  # (N, B) uint8: i2/planes or t5/planes
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32; None where groups have scales
    group_scale_ptr,  # (N, GROUPS) float32, or None
    bias_ptr,  # (N,)
    M,
    N,
    B,
    X_STRIDE,
    GROUPS,
    GROUP_SIZE: tl.constexpr,  # inputs, a multiple of CHUNK
    PLANES: tl.constexpr,  # 4: i2, 5: t5
    WEIGHT: tl.constexpr,  # the operand of a weight of 1
    ROW_SCALES: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    n_tiles = tl.cdiv(N, BLOCK_N)
    first_m = tl.program_id(0) // n_tiles * BLOCK_M
    m = first_m + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k, n_row = tl.arange(0, CHUNK)[None, :], tl.where(n < N, n, 0).to(tl.int64)
    x_ptrs = x_ptr + m[:, None].to(tl.int64) * X_STRIDE + k
    w_ptrs = w_ptr + n_row[:, None] * B + k
    w_scale, bias = load_w_scale(n, N, w_scale_ptr, bias_ptr, ROW_SCALES)
    gdc_wait(PDL)
    x_scale = load_x_scale(m, M, x_scale_ptr)
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    SUM: tl.constexpr = tl.int32 if tl.int8 == TYPE else tl.float32
    GROUPED: tl.constexpr = group_scale_ptr is not None
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32 if GROUPED else SUM)
    for start in tl.range(0, B, CHUNK, num_stages=STAGES):
        packed = tl.load(w_ptrs + start)
        for plane in tl.static_range(PLANES):
            first = plane * B + start
            x = tl.load(x_ptrs + first, mask=(m < M)[:, None] & (k < X_STRIDE - first), other=0)
            w = operand(packed, plane, TYPE, ASM) if PLANES == 4 else t5_operand(packed, plane, TYPE, ASM)
            if GROUPED:
                zeros = tl.zeros((BLOCK_N, BLOCK_M), SUM)
                sums = tl.dot(w, tl.trans(x), zeros, out_dtype=SUM, input_precision="ieee")
                group = first // GROUP_SIZE  # behind the last one there are zeros only
                scale = tl.load(group_scale_ptr + n_row * GROUPS + group, mask=(n < N) & (group < GROUPS), other=0.0)
                acc += sums.to(tl.float32) * (1.0 / WEIGHT) * scale[:, None]
            else:
                acc = tl.dot(w, tl.trans(x), acc, out_dtype=SUM, input_precision="ieee")
    store_outputs(tl.trans(acc), first_m, m, n, M, N, y_ptr, x_scale, w_scale, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: PlanesConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """Return the launch x (rows, x_stride) in natural order, the operand of that name; w_packed -> y (rows, N)."""
    x_scale, w_scale, bias = scale_operands(problem)
    planes, grouped = PLANES[problem.layout], problem.scale == "group"
    return Launch(
        planes_kernel,
        programs=triton.cdiv(rows, config.block_m) * triton.cdiv(problem.out_features, config.block_n),
        operands=(x, "w_packed", "y", x_scale, w_scale, "w_scale" if grouped else None, bias),
        constants={
            "M": rows,
            "N": problem.out_features,
            "B": row_bytes(problem.in_features, planes),
            "X_STRIDE": x_stride,
            "GROUPS": triton.cdiv(problem.in_features, problem.group_size) if grouped else 0,
            "GROUP_SIZE": problem.group_size,
            "PLANES": planes,
            "WEIGHT": weight_unit(problem) if planes == 4 else 1.0,
            **flags(problem),
            "CHUNK": CHUNK,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "STAGES": config.num_stages,
        },
        num_warps=config.num_warps,
    )


def configs(problem: Problem) -> tuple[PlanesConfig, ...]:
    """Return tiles by dtype, scales and number of rows, the likeliest best first."""
    if problem.x_dtype == "float32" and problem.activation == "a16":
        return PlanesConfig(16, 32, 4, 2), PlanesConfig(16, 16, 2, 2)
    block_m = min(64, max(16, problem.rows))
    tiles = (
        PlanesConfig(block_m, 64, 4, 4),
        PlanesConfig(block_m, 64, 4, 3),
        PlanesConfig(block_m, 128, 4, 4),
        PlanesConfig(block_m, 32, 4, 3),
        PlanesConfig(16, 16, 2, 2),
    )
    if problem.activation == "a8" and problem.rows > 16:
        tiles = (group_tile(problem) if problem.scale == "group" else sum_tile(problem), *tiles)
    return fitting(problem, tiles, lambda config: config.shared_memory(x_bytes(problem)))


def space(problem: Problem) -> tuple[PlanesConfig, ...]:
    """Return tiles by the number of rows; only the largest have 8 warps."""
    tiles = tuple(
        PlanesConfig(block_m, block_n, num_warps, num_stages)
        for block_m, block_n, num_stages in product(heights(problem), (32, 64, 128), (2, 3, 4))
        for num_warps in ((4, 8) if block_m * block_n >= 64 * 64 else (4,))
    )
    return fitting(problem, tiles, lambda config: config.shared_memory(x_bytes(problem)))


def sum_tile(problem: Problem) -> PlanesConfig:
    """Return the tile for t5 that won on an H200."""
    if problem.rows < 128:
        return PlanesConfig(min(64, problem.rows), 64, 4, 4)
    return by_cost(problem, {PlanesConfig(128, 128, 4, 2): 1.0, PlanesConfig(64, 64, 4, 3): 1.3})[0]


def group_tile(problem: Problem) -> PlanesConfig:
    """Return the tile for group scales that won on an H200."""
    if problem.rows < 128:
        if problem.rows < 64:
            return PlanesConfig(32, 64, 4, 3)
        few = 3 * tiles_of(problem, problem.rows, 64) < multiprocessors(problem.gpu)
        return PlanesConfig(32, 128, 4, 3) if few else PlanesConfig(64, 64, 8, 4)
    return by_cost(problem, {PlanesConfig(64, 128, 4, 3): 1.0, PlanesConfig(32, 128, 4, 3): 1.1})[0]


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.layout == "i2/planes" and problem.scale != "group":
        return "takes i2 with group scales, or t5"
    if problem.scale == "group" and problem.layout != "i2/planes":
        return "takes group scales with i2 alone"
    return runs_unsupported_reason(problem)
