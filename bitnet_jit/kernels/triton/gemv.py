"""Ternary layers for a few rows of x: dot products of four bytes, every weight loaded before the first is used.

    y[m, n] = float32(sum over words w and planes s of dot4(field s of W[n, w], x[m, s B + 4 w ..])) * scales + bias

A field at the top of its byte counts 64 times the weight: partial sums are shifted back before they are added up.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from bitnet_jit.kernels.triton.codes import FIELDS, dot_bytes, finish
from bitnet_jit.kernels.triton.target import uses_assembly


@dataclass(frozen=True)
class GemvConfig:
    """A program computes `block_n` outputs, `block_words` words of 16 weights at a time; its loop is unrolled."""

    block_n: int
    block_words: int
    num_warps: int


@triton.jit
def gemv_kernel(
    x_ptr,  # (M, 4 WORDS) int32: x_q in natural order, four codes a word
    w_ptr,  # (N, WORDS) int32: i2/planes
    y_ptr,  # (M, N)
    x_scale_ptr,  # (M,) float32
    w_scale_ptr,  # () or (N,) float32
    bias_ptr,  # (N,)
    N,
    WORDS: tl.constexpr,
    M: tl.constexpr,
    SUMS: tl.constexpr,  # y is int32 sums
    ROW_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ASM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < N
    # a tile of addresses, not a row of them: x comes in the layout of the weights, without a detour by shared memory
    words = tl.arange(0, BLOCK_WORDS)[None, :] + tl.zeros((BLOCK_N, 1), tl.int32)
    w_ptrs = w_ptr + n[:, None].to(tl.int64) * WORDS + words
    weights, acc = (), ()
    for start in tl.static_range(0, WORDS, BLOCK_WORDS):
        mask = (words < WORDS - start) & inside[:, None]
        weights = weights + (tl.load(w_ptrs + start, mask=mask, other=0, eviction_policy="evict_first"),)
    for _ in tl.static_range(M):
        acc = acc + (tl.zeros((BLOCK_N, BLOCK_WORDS), tl.int32),)
    for step in tl.static_range(len(weights)):
        k = step * BLOCK_WORDS + words
        sums = ()
        for m in tl.static_range(M):
            total = acc[m]
            for plane in tl.static_range(4):
                x = tl.load(x_ptr + (4 * m + plane) * WORDS + k, mask=k < WORDS, other=0)
                total = dot_bytes((weights[step] << (6 - 2 * plane)) & FIELDS, x, total, ASM)
            sums = sums + (total,)
        acc = sums
    for m in tl.static_range(M):
        y = tl.sum(acc[m] >> 6, axis=1)
        if not SUMS:
            w_scale = tl.load(w_scale_ptr + n, mask=inside, other=0.0) if ROW_SCALES else tl.load(w_scale_ptr)
            bias = tl.load(bias_ptr + n, mask=inside, other=0.0) if HAS_BIAS else 0.0
            y = finish(y, tl.load(x_scale_ptr + m), w_scale, bias, y_ptr.dtype.element_ty, HAS_BIAS)
        tl.store(y_ptr + m * N + n, y, mask=inside)


def gemv(x_q, x_scale, w_packed, w_scale, bias, y: torch.Tensor, config: GemvConfig) -> torch.Tensor:
    """x_q (M, 4 B) int8 in natural order, padded; w_packed in i2/planes -> y (M, N), which is returned."""
    rows, out_features = y.shape
    gemv_kernel[(triton.cdiv(out_features, config.block_n),)](
        x_q.view(torch.int32),
        w_packed.view(torch.int32),
        y,
        y if x_scale is None else x_scale,
        y if w_scale is None else w_scale,
        y if bias is None else bias,
        out_features,
        WORDS=w_packed.shape[1] // 4,
        M=rows,
        SUMS=x_scale is None,
        ROW_SCALES=w_scale is not None and w_scale.dim() == 1,
        HAS_BIAS=bias is not None,
        ASM=uses_assembly(),
        BLOCK_N=config.block_n,
        BLOCK_WORDS=config.block_words,
        num_warps=config.num_warps,
        enable_fp_fusion=False,
    )
    return y
