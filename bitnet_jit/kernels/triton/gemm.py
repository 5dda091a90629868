"""Ternary layers for many rows of x, on the matrix units: Y^T = W X^T, so that W, unpacked in registers, is the operand
which they take from registers.

A program computes `block_m` rows by `block_n` outputs; programs that share weights run `group` tiles of rows at a time,
so that the tiles of x stay in the second cache. x is in the order of chunks (see quantize.py).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from bitnet_jit.kernels.triton.codes import finish, join_planes
from bitnet_jit.kernels.triton.layout import CHUNK
from bitnet_jit.kernels.triton.target import uses_assembly


@dataclass(frozen=True)
class GemmConfig:
    """A tile of `block_m` rows by `block_n` outputs, `block_bytes` packed bytes (a multiple of 64) at a time."""

    block_m: int
    block_n: int
    block_bytes: int
    group: int
    num_warps: int
    num_stages: int


@triton.jit
def gemm_kernel(
    x_ptr,  # (M, 4 B) int8, in the order of chunks
    w_ptr,  # (N, B) uint8: i2/planes
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    M,
    N,
    B,
    SUMS: tl.constexpr,  # y is int32 sums
    ROW_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ASM: tl.constexpr,
    WHOLE: tl.constexpr,  # B is a multiple of BLOCK_B
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):
    program, m_tiles = tl.program_id(0), tl.cdiv(M, BLOCK_M)
    in_group = GROUP * tl.cdiv(N, BLOCK_N)
    first = program // in_group * GROUP
    height = tl.minimum(m_tiles - first, GROUP)
    m = (first + program % in_group % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = program % in_group // height * BLOCK_N + tl.arange(0, BLOCK_N)
    m_inside, n_inside = m < M, n < N
    packed_byte, k = tl.arange(0, BLOCK_B), tl.arange(0, 4 * BLOCK_B)
    # rows beyond the last are masked in x, where reading row 0 again and again is slow, and read as row 0 in W
    x_ptrs = x_ptr + m[:, None].to(tl.int64) * (4 * B) + k[None, :]
    w_ptrs = w_ptr + tl.where(n_inside, n, 0)[:, None].to(tl.int64) * B + packed_byte[None, :]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for start in tl.range(0, B, BLOCK_B, num_stages=STAGES):
        if WHOLE:
            packed = tl.load(w_ptrs)
            x = tl.load(x_ptrs, mask=m_inside[:, None], other=0)
        else:
            packed = tl.load(w_ptrs, mask=(packed_byte < B - start)[None, :], other=0)
            x = tl.load(x_ptrs, mask=m_inside[:, None] & (k < 4 * (B - start))[None, :], other=0)
        w = join_planes(packed, BLOCK_N, BLOCK_B, CHUNK, ASM)
        acc = tl.dot(w, tl.trans(x), acc, out_dtype=tl.int32)
        w_ptrs += BLOCK_B
        x_ptrs += 4 * BLOCK_B
    y = tl.trans(acc >> 6)
    if not SUMS:
        x_scale = tl.load(x_scale_ptr + m, mask=m_inside, other=0.0)[:, None]
        w_scale = tl.load(w_scale_ptr + n, mask=n_inside, other=0.0)[None, :] if ROW_SCALES else tl.load(w_scale_ptr)
        bias = tl.load(bias_ptr + n, mask=n_inside, other=0.0)[None, :] if HAS_BIAS else 0.0
        y = finish(y, x_scale, w_scale, bias, y_ptr.dtype.element_ty, HAS_BIAS)
    y_ptrs = y_ptr + m[:, None].to(tl.int64) * N + n[None, :]
    tl.store(y_ptrs, y, mask=m_inside[:, None] & n_inside[None, :])


def gemm(x_q, x_scale, w_packed, w_scale, bias, y: torch.Tensor, config: GemmConfig) -> torch.Tensor:
    """x_q (M, 4 B) int8 in the order of chunks, padded; w_packed in i2/planes -> y (M, N), which is returned."""
    (rows, out_features), num_bytes = y.shape, w_packed.shape[1]
    grid = (triton.cdiv(rows, config.block_m) * triton.cdiv(out_features, config.block_n),)
    gemm_kernel[grid](
        x_q,
        w_packed,
        y,
        y if x_scale is None else x_scale,
        y if w_scale is None else w_scale,
        y if bias is None else bias,
        rows,
        out_features,
        num_bytes,
        SUMS=x_scale is None,
        ROW_SCALES=w_scale is not None and w_scale.dim() == 1,
        HAS_BIAS=bias is not None,
        ASM=uses_assembly(),
        WHOLE=num_bytes % config.block_bytes == 0,
        CHUNK=CHUNK,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_B=config.block_bytes,
        GROUP=config.group,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        enable_fp_fusion=False,
    )
    return y
