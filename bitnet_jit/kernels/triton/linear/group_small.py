"""Ternary layers with scales of groups for up to 16 rows of floats: as small.py, with one scale per output and group.

A piece is `block_bytes` packed bytes of which every plane lies in one group, so that each plane is a product and each
product has a scale. Pieces are the batch of batched products, which land on different warps; their sums are added up at
the end. So y has other last bits than by planes.py, which adds groups up one after the other.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import triton
import triton.language as tl

from bitnet_jit.kernels.triton.device.launch import Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.target import is_nvidia, supports_pdl
from bitnet_jit.kernels.triton.device.unpack import operand
from bitnet_jit.kernels.triton.layout import CHUNK, row_bytes
from bitnet_jit.kernels.triton.linear.epilogue import load_w_scale, store_outputs, weight_unit
from bitnet_jit.kernels.triton.linear.loads import load_inside
from bitnet_jit.kernels.triton.linear.refusals import runs_unsupported_reason
from bitnet_jit.kernels.triton.linear.small import block_m
from bitnet_jit.kernels.triton.linear.tiles import ELEMENT_BYTES, fitting
from bitnet_jit.problem import Problem

MAX_ROWS = 16


@dataclass(frozen=True)
class GroupSmallConfig:
    """A tile of all rows by `block_n` outputs, `pieces` times `block_bytes` (a multiple of 64) at a time."""

    block_n: int
    block_bytes: int
    pieces: int
    num_warps: int
    num_stages: int

    def shared_memory(self, rows: int, element_bytes: int) -> int:
        """Return the bytes of shared memory that the pipeline takes."""
        return self.num_stages * self.pieces * self.block_bytes * (4 * rows * element_bytes + self.block_n)


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def group_small_kernel(
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
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    first_n = tl.program_id(0) * BLOCK_N
    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    piece, byte = tl.arange(0, PIECES)[:, None, None], tl.arange(0, BLOCK_B)[None, None, :]
    n_row = tl.minimum(n, N - 1 - first_n)[None, :, None]
    x_ptrs = x_ptr + (m[None, :, None] * K + piece * BLOCK_B + byte)
    w_ptr += first_n.to(tl.int64) * B
    w_ptrs = w_ptr + (n_row * B + piece * BLOCK_B + byte)
    scale_ptrs = group_scale_ptr + (first_n + n_row).to(tl.int64) * GROUPS
    x_inside = (m < M)[None, :, None]
    n = first_n + n
    _, bias = load_w_scale(n, N, None, bias_ptr, False)
    gdc_wait(PDL)
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    acc = tl.zeros((PIECES, BLOCK_N, BLOCK_M), tl.float32)
    zeros = tl.zeros((PIECES, BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(0, B, PIECES * BLOCK_B, num_stages=STAGES):
        there = start + piece * BLOCK_B < B  # B is a multiple of BLOCK_B
        packed = load_inside(w_ptrs, there, WHOLE)
        for plane in tl.static_range(4):
            inside = x_inside
            if not WHOLE:
                inside = inside & there & (piece * BLOCK_B + byte < K - plane * B - start)
            x = tl.load(x_ptrs + plane * B, mask=inside, other=0.0)
            group = (plane * B + start + piece * BLOCK_B) // GROUP_SIZE
            scale = tl.load(scale_ptrs + group, mask=there & (group < GROUPS), other=0.0)
            w = operand(packed, plane, TYPE, ASM)
            sums = tl.dot(w, tl.permute(x, (0, 2, 1)), zeros, input_precision="ieee")
            acc += sums * (scale * (1.0 / WEIGHT))
        w_ptrs += PIECES * BLOCK_B
        x_ptrs += PIECES * BLOCK_B
    y = tl.trans(tl.sum(acc, axis=0))
    store_outputs(y, 0, m, n, M, N, y_ptr, 1.0, 1.0, bias, bias_ptr)


def launch(problem: Problem, rows: int, config: GroupSmallConfig, x: str, x_stride: int, natural: bool) -> Launch:
    """Return the launch x (rows, K) floats, the operand of that name; w_packed in i2/planes -> y (rows, N)."""
    step = config.pieces * config.block_bytes
    return Launch(
        group_small_kernel,
        programs=triton.cdiv(problem.out_features, config.block_n),
        operands=(x, "w_packed", "y", "w_scale", "bias" if problem.bias else None),
        constants={
            **constants_of(problem, rows, step),
            "BLOCK_M": block_m(problem),
            "BLOCK_N": config.block_n,
            "BLOCK_B": config.block_bytes,
            "PIECES": config.pieces,
            "STAGES": config.num_stages,
        },
        num_warps=config.num_warps,
    )


def constants_of(problem: Problem, rows: int, step: int) -> dict[str, Any]:
    """Return the constants that kernels for groups share; a step of theirs is so many packed bytes."""
    num_bytes = row_bytes(problem.in_features)
    return {
        "M": rows,
        "N": problem.out_features,
        "B": num_bytes,
        "K": problem.in_features,
        "GROUPS": triton.cdiv(problem.in_features, problem.group_size),
        "GROUP_SIZE": problem.group_size,
        "WEIGHT": weight_unit(problem),
        "ASM": is_nvidia(problem.gpu),
        "PDL": supports_pdl(problem.gpu),
        "WHOLE": num_bytes % step == 0 and problem.in_features == 4 * num_bytes,
    }


def block_bytes(problem: Problem) -> int:
    """Return the bytes of a piece: 128 where groups and rows are made of those, else 64."""
    whole = problem.group_size % (2 * CHUNK) == 0 and row_bytes(problem.in_features) % (2 * CHUNK) == 0
    return 2 * CHUNK if whole else CHUNK


def configs(problem: Problem) -> tuple[GroupSmallConfig, ...]:
    """Return configs, first the winner on an H100: taller tiles where there are programs enough."""
    size = block_bytes(problem)
    few, many = GroupSmallConfig(16, size, 4, 4, 2), GroupSmallConfig(32, size, 4, 4, 2)
    tiles = (many, few) if problem.out_features >= 6144 else (few, many)
    return fit(problem, (*tiles, GroupSmallConfig(16, size, 2, 2, 3), GroupSmallConfig(16, CHUNK, 1, 1, 2)))


def space(problem: Problem) -> tuple[GroupSmallConfig, ...]:
    """Return tiles with a warp for each piece, or two."""
    tiles = product((16, 32), {CHUNK, block_bytes(problem)}, (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 3))
    return fit(problem, tuple(GroupSmallConfig(*tile) for tile in tiles if tile[2] <= tile[3] <= 2 * tile[2]))


def fit(problem: Problem, tiles: tuple[GroupSmallConfig, ...]) -> tuple[GroupSmallConfig, ...]:
    """Return the tiles that fit in the GPU."""
    element = ELEMENT_BYTES[problem.x_dtype]
    return fitting(problem, tiles, lambda config: config.shared_memory(block_m(problem), element))


def unsupported_reason(problem: Problem) -> str | None:
    """Return why no kernel for floats and groups can run a problem, whatever its rows, or None."""
    if problem.scale != "group":
        return "takes group scales"
    if problem.x_dtype == "float32":
        return "takes x of 16 bits"
    return runs_unsupported_reason(problem)
