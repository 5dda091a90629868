"""Activation quantization of rows: absmax int8 codes, half to even, and their scale.

    x_q = rint(x * (127 / max|x|)),   x_scale = max|x| / 127

A row of codes is padded with zeros to whole chunks of the weight's layout, in one of two orders of K: natural, or
"chunks": position 256 c + 64 s + j holds input s * B + j + 64 c of the layout `i2/planes`, so that a matrix product
reads whole chunks of x beside whole chunks of weights. The largest magnitude is found among the bits: there infinity
and NaN are simply the largest.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from bitnet_jit.kernels.triton.layout import CHUNK, row_bytes

ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, half to even
ROUND_BITS = tl.constexpr(0x4B400000)
INFINITY_BITS = tl.constexpr(0x7F800000)


@dataclass(frozen=True)
class QuantizeConfig:
    """block: elements of a row at a time, a power of two."""

    block: int
    num_warps: int


@triton.jit
def quantize_kernel(
    x_ptr,  # (M, K) float
    x_q_ptr,  # (M, 4 B) int8
    x_scale_ptr,  # (M,) float32
    K,
    B,
    CHUNKS: tl.constexpr,  # the order of K: chunks of so many bytes; 0: natural
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    x_ptr += row * K
    largest = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, K, BLOCK):
        x = tl.load(x_ptr + start + offsets, mask=start + offsets < K, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    bits = tl.max(largest, axis=0)
    bad = bits >= INFINITY_BITS
    absmax = tl.where(bad, 1.0, tl.maximum(bits.to(tl.float32, bitcast=True), 1e-5))
    factor = tl.div_rn(tl.full((), 127.0, tl.float32), absmax)
    for start in range(0, 4 * B, BLOCK):
        k = start + offsets
        x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        rounded = tl.where(bad, 0.0, x) * factor + ROUND
        x_q = (rounded.to(tl.int32, bitcast=True) - ROUND_BITS).to(tl.int8)
        place = k
        if CHUNKS:
            place = k % B // CHUNKS * (4 * CHUNKS) + k // B * CHUNKS + k % CHUNKS
        tl.store(x_q_ptr + row * 4 * B + place, x_q, mask=k < 4 * B)
    x_scale = tl.div_rn(absmax, tl.full((), 127.0, tl.float32))
    tl.store(x_scale_ptr + row, tl.where(bad, float("nan"), x_scale))


def quantize(x: torch.Tensor, config: QuantizeConfig, chunks: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """x (M, K) -> x_q (M, 4 B) int8, padded, in one of the two orders; x_scale (M,) float32."""
    rows, in_features = x.shape
    num_bytes = row_bytes(in_features)
    x_q = torch.empty(rows, 4 * num_bytes, dtype=torch.int8, device=x.device)
    x_scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        quantize_kernel[(rows,)](
            x,
            x_q,
            x_scale,
            in_features,
            num_bytes,
            CHUNKS=CHUNK if chunks else 0,
            BLOCK=config.block,
            num_warps=config.num_warps,
            enable_fp_fusion=False,
        )
    return x_q, x_scale


def default_config(in_features: int) -> QuantizeConfig:
    """Whole rows at once while they fit the registers of a few warps."""
    block = min(8192, max(256, triton.next_power_of_2(in_features)))
    return QuantizeConfig(block, num_warps=max(1, min(8, block // 512)))
