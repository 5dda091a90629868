"""`quantize_weight`: absmean quantization of a float weight, straight into the layout that kernels read.

    w_scale = max(mean|w|, 1e-5)         summed in float64, rounded once to float32          (arXiv 2402.17764, eq. 1-3)
    w_q     = clip(round(w / w_scale), -1, 1), packed as `i2/planes` or `i2/chunks`

The first kernel leaves sums of equal parts of the weight, as many on every device, so that the scale is the same on
all. Each program of the second adds them up and codes a tile. No division is needed there: with s > 0 and w float32,
round(w / s) >= 1 exactly where w > s / 2. For s / 2 = m 2^e with 1 <= m < 2, the next float32 above it is larger by a
factor of at least 1 + 2^-23 / m > 1 + 2^-24, and a quotient above 0.5 (1 + 2^-24) rounds to more than 0.5; 0.5 itself
rounds to 0, the even one.

Products load weights before they wait for the kernel ahead of them, so none may begin before these are written: the
second kernel lets no other begin early, and `quantize_activation`, which training launches between it and a product,
only when it has waited itself.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch, Scratch
from bitnet_jit.kernels.triton.device.order import first_input, lowest_inputs
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.quantize import EPS
from bitnet_jit.kernels.triton.layout import I2_LAYOUTS, order, row_bytes
from bitnet_jit.problem import Problem

MAX_PARTS = 1024
MIN_ELEMENTS = 4096  # of a part


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
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_wait(PDL)
    gdc_launch_dependents(PDL)  # now only, since the next kernel reads w at once
    first = tl.program_id(0).to(tl.int64) * SPAN
    end = tl.minimum(first + SPAN, SIZE)
    block = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in tl.range(first, end, BLOCK):
        w = tl.load(w_ptr + start + block, mask=start + block < end, other=0.0)
        sums += tl.abs(w.to(tl.float32)).to(tl.float64)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(sums, axis=0))


@triton.jit
def field(w, half):
    """Return the two bits of a weight's code: 1 above half of the scale, 3 below minus that, else 0."""
    return tl.where(w > half, 1, tl.where(w < -half, 3, 0))


@triton.jit
def quantize_weight_kernel(
    w_ptr,  # (N, K) float
    sums_ptr,  # (PARTS,) float64
    packed_ptr,  # (N, B) uint8: i2
    scale_ptr,  # () float32
    PARTS,
    N,
    K,
    B,
    APART,  # distance of the inputs whose weights share a byte
    CHUNK: tl.constexpr,  # bytes of the layout's chunks; 0: planes
    SIZE: tl.constexpr,  # N * K
    PDL: tl.constexpr,
    MAX_PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    tiles = tl.cdiv(B, BLOCK_B)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the sums have read the last tiles last: L2 has them still
    n = (tile // tiles * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    byte = (tile % tiles * BLOCK_B + tl.arange(0, BLOCK_B))[None, :]
    k = (first_input(tile % tiles, BLOCK_B, CHUNK) + lowest_inputs(BLOCK_B, CHUNK))[None, :]
    w_ptrs, inside = w_ptr + n.to(tl.int64) * K + k, (n < N) & (byte < B)
    w0 = tl.load(w_ptrs, mask=inside & (k < K), other=0.0).to(tl.float32)
    w1 = tl.load(w_ptrs + APART, mask=inside & (k < K - APART), other=0.0).to(tl.float32)
    w2 = tl.load(w_ptrs + 2 * APART, mask=inside & (k < K - 2 * APART), other=0.0).to(tl.float32)
    w3 = tl.load(w_ptrs + 3 * APART, mask=inside & (k < K - 3 * APART), other=0.0).to(tl.float32)
    gdc_wait(PDL)
    part = tl.arange(0, MAX_PARTS)
    total = tl.sum(tl.load(sums_ptr + part, mask=part < PARTS, other=0.0), axis=0)
    mean = (total / tl.full((), SIZE, tl.float64)).to(tl.float32)
    scale = tl.where(mean < EPS, EPS, mean)  # NaN stays
    if tl.program_id(0) == 0:
        tl.store(scale_ptr, scale)
    half = scale * 0.5
    packed = field(w0, half) | field(w1, half) << 2 | field(w2, half) << 4 | field(w3, half) << 6
    tl.store(packed_ptr + n.to(tl.int64) * B + byte, packed.to(tl.uint8), mask=inside)


def parts_of(problem: Problem) -> tuple[int, int]:
    """Return into how many parts a weight is cut for its sum, and the elements of each: its size alone decides."""
    size = problem.out_features * problem.in_features
    span = max(MIN_ELEMENTS, MIN_ELEMENTS * triton.cdiv(size, MAX_PARTS * MIN_ELEMENTS))
    return triton.cdiv(size, span), span


def bind(problem: Problem, config: QuantizeConfig) -> Bound:
    """Bind weight (N, K) -> w_packed (N, B), w_scale ()."""
    (parts, span), num_bytes = parts_of(problem), row_bytes(problem.in_features)
    size, pdl = problem.out_features * problem.in_features, target.supports_pdl(problem.gpu)
    tiles = triton.cdiv(problem.out_features, config.block_n) * triton.cdiv(num_bytes, config.block_bytes)
    adding = {"SIZE": size, "SPAN": span, "PDL": pdl, "BLOCK": config.block}
    coding = {
        "PARTS": parts,
        "N": problem.out_features,
        "K": problem.in_features,
        "B": num_bytes,
        **order(problem),
        "SIZE": size,
        "PDL": pdl,
        "MAX_PARTS": MAX_PARTS,
        "BLOCK_N": config.block_n,
        "BLOCK_B": config.block_bytes,
    }

    def launches(rows: int) -> tuple[Launch, ...]:
        return (
            Launch(absolute_sum_kernel, parts, ("weight", "sums"), adding, config.num_warps),
            Launch(quantize_weight_kernel, tiles, ("weight", "sums", "w_packed", "w_scale"), coding, config.num_warps),
        )

    def scratch(rows: int) -> Scratch:
        return {"sums": (parts, "float64")}

    return Bound(launches, scratch)


def configs(problem: Problem) -> tuple[QuantizeConfig, ...]:
    """Return the configs of a quick tuning, the likeliest best first."""
    return QuantizeConfig(4096, 32, 64, 8), QuantizeConfig(2048, 16, 64, 4)


def space(problem: Problem) -> tuple[QuantizeConfig, ...]:
    """Return tiles of 16 to 64 weights per thread."""
    configs = (QuantizeConfig(*config) for config in product((2048, 4096), (8, 16, 32, 64), (64, 128), (4, 8)))
    return tuple(c for c in configs if 512 <= 4 * c.block_n * c.block_bytes // c.num_warps <= 2048)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.layout not in I2_LAYOUTS:
        return f"writes the layouts {' and '.join(I2_LAYOUTS)}, not {problem.layout!r}"
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.quantize_weight", "quantize_weight", bind, configs, unsupported_reason, space),)
