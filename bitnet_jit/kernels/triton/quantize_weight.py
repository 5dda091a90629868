"""`quantize_weight`: absmean quantization of a float weight, straight into the layout that kernels read.

    w_scale = max(mean|w|, 1e-5)         summed in float64, rounded once to float32          (arXiv 2402.17764, eq. 1-3)
    w_q     = clip(round(w / w_scale), -1, 1), packed as `i2/planes`

The first kernel leaves sums of equal parts of the weight, as many on every device, so that the scale is the same on
all. Each program of the second adds them up and codes a tile. No division is needed there: with s > 0 and w float32,
round(w / s) >= 1 exactly where w > s / 2. For s / 2 = m 2^e with 1 <= m < 2, the next float32 above it is larger by a
factor of at least 1 + 2^-23 / m > 1 + 2^-24, and a quotient above 0.5 (1 + 2^-24) rounds to more than 0.5; 0.5 itself
rounds to 0, the even one.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton import target
from bitnet_jit.kernels.triton.codes import let_next_begin, wait
from bitnet_jit.kernels.triton.launch import Bound, Launch, Scratch
from bitnet_jit.kernels.triton.layout import I2_PLANES, row_bytes
from bitnet_jit.problem import Problem

EPS = tl.constexpr(1e-5)
MOST_PARTS = 1024
LEAST_ELEMENTS = 4096  # of a part


@dataclass(frozen=True)
class QuantizeConfig:
    """A program adds up `block` elements at a time, or codes `block_n` outputs by `block_bytes` packed bytes."""

    block: int
    block_n: int
    block_bytes: int
    num_warps: int


@triton.jit
def absolute_sum_kernel(
    w_ptr,  # (SIZE,) float
    sums_ptr,  # (PARTS,) float64
    SIZE,
    SPAN,  # elements of a part
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    let_next_begin(DEPENDENT)
    wait(DEPENDENT)
    first = tl.program_id(0).to(tl.int64) * SPAN
    end = tl.minimum(first + SPAN, SIZE)
    block = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in tl.range(first, end, BLOCK):
        w = tl.load(w_ptr + start + block, mask=start + block < end, other=0.0)
        sums += tl.abs(w.to(tl.float32)).to(tl.float64)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(sums, axis=0))


@triton.jit
def quantize_weight_kernel(
    w_ptr,  # (N, K) float
    sums_ptr,  # (PARTS,) float64
    packed_ptr,  # (N, B) uint8: i2/planes
    scale_ptr,  # () float32
    PARTS,
    N,
    K,
    B,
    SIZE: tl.constexpr,  # N * K
    DEPENDENT: tl.constexpr,
    MOST_PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    let_next_begin(DEPENDENT)
    wait(DEPENDENT)
    part = tl.arange(0, MOST_PARTS)
    total = tl.sum(tl.load(sums_ptr + part, mask=part < PARTS, other=0.0), axis=0)
    mean = (total / tl.full((), SIZE, tl.float64)).to(tl.float32)
    scale = tl.where(mean < EPS, EPS, mean)  # NaN stays
    if tl.program_id(0) == 0:
        tl.store(scale_ptr, scale)
    half = scale * 0.5
    tiles = tl.cdiv(B, BLOCK_B)
    n = (tl.program_id(0) // tiles * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    byte = (tl.program_id(0) % tiles * BLOCK_B + tl.arange(0, BLOCK_B))[None, :]
    w_ptrs = w_ptr + n.to(tl.int64) * K + byte
    packed = tl.zeros((BLOCK_N, BLOCK_B), tl.int32)
    for plane in tl.static_range(4):
        inside = (n < N) & (byte < B) & (plane * B + byte < K)
        w = tl.load(w_ptrs + plane * B, mask=inside, other=0.0).to(tl.float32)
        field = tl.where(w > half, 1, tl.where(w < -half, 3, 0))
        packed |= field << (2 * plane)
    tl.store(packed_ptr + n.to(tl.int64) * B + byte, packed.to(tl.uint8), mask=(n < N) & (byte < B))


def parts_of(problem: Problem) -> tuple[int, int]:
    """Into how many parts a weight is cut for its sum, and the elements of each: a matter of its size alone."""
    size = problem.out_features * problem.in_features
    span = max(LEAST_ELEMENTS, LEAST_ELEMENTS * triton.cdiv(size, MOST_PARTS * LEAST_ELEMENTS))
    return triton.cdiv(size, span), span


def bind(problem: Problem, config: QuantizeConfig) -> Bound:
    """w (N, K) -> w_packed (N, B), w_scale ()."""
    (parts, span), num_bytes = parts_of(problem), row_bytes(problem.in_features)
    size, dependent = problem.out_features * problem.in_features, target.is_dependent(problem.gpu)
    tiles = triton.cdiv(problem.out_features, config.block_n) * triton.cdiv(num_bytes, config.block_bytes)
    adding = {"SIZE": size, "SPAN": span, "DEPENDENT": dependent, "BLOCK": config.block}
    coding = {
        "PARTS": parts,
        "N": problem.out_features,
        "K": problem.in_features,
        "B": num_bytes,
        "SIZE": size,
        "DEPENDENT": dependent,
        "MOST_PARTS": MOST_PARTS,
        "BLOCK_N": config.block_n,
        "BLOCK_B": config.block_bytes,
    }

    def launches(rows: int) -> tuple[Launch, ...]:
        return (
            Launch(absolute_sum_kernel, parts, ("w", "sums"), adding, config.num_warps),
            Launch(quantize_weight_kernel, tiles, ("w", "sums", "w_packed", "w_scale"), coding, config.num_warps),
        )

    def scratch(rows: int) -> Scratch:
        return {"sums": (parts, "float64")}

    return Bound(launches, scratch)


def configs(problem: Problem) -> tuple[QuantizeConfig, ...]:
    """The likeliest best first."""
    return QuantizeConfig(4096, 32, 64, 8), QuantizeConfig(2048, 16, 64, 4)


def space(problem: Problem) -> tuple[QuantizeConfig, ...]:
    """Tiles of 16 to 64 weights a thread."""
    found = (QuantizeConfig(*config) for config in product((2048, 4096), (8, 16, 32, 64), (64, 128), (4, 8)))
    return tuple(one for one in found if 512 <= 4 * one.block_n * one.block_bytes // one.num_warps <= 2048)


def why_not(problem: Problem) -> str | None:
    """What this kernel refuses, in words."""
    if problem.layout != I2_PLANES.name:
        return f"writes the layout {I2_PLANES.name}, not {problem.layout!r}"
    return target.why_not(problem.gpu)


KERNELS = (Kernel("triton.quantize_weight", "quantize_weight", bind, configs, why_not, space),)
