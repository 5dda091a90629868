"""`dequantize_weight` and `dequantize_activation`: codes times their scale as floats, for products in floating point.

    w = w_q * w_scale       (N, K) of packed codes, one scale or one per output
    x = x_q * x_scale       (M, K) of codes, one scale per row

Each product is one float32 multiplication, rounded once more to a half type.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch
from bitnet_jit.kernels.triton.device.order import first_input, lowest_inputs
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.layout import I2_LAYOUTS, order, row_bytes
from bitnet_jit.problem import Problem


@dataclass(frozen=True)
class TileConfig:
    """A program reads `block_bytes` bytes of each of `block_n` rows, and writes the floats that they hold."""

    block_n: int
    block_bytes: int
    num_warps: int


@triton.jit
def dequantize_weight_kernel(
    packed_ptr,  # (N, B) uint8: i2
    scale_ptr,  # () or (N,) float32
    w_ptr,  # (N, K) float
    N,
    K,
    B,
    APART,  # distance of the inputs whose weights share a byte
    CHUNK: tl.constexpr,  # bytes of the layout's chunks; 0: planes
    ROW_SCALES: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    tiles = tl.cdiv(B, BLOCK_B)
    n = (tl.program_id(0) // tiles * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    byte = (tl.program_id(0) % tiles * BLOCK_B + tl.arange(0, BLOCK_B))[None, :]
    k = (first_input(tl.program_id(0) % tiles, BLOCK_B, CHUNK) + lowest_inputs(BLOCK_B, CHUNK))[None, :]
    packed = tl.load(packed_ptr + n.to(tl.int64) * B + byte, mask=(n < N) & (byte < B), other=0).to(tl.int32)
    scale = tl.load(scale_ptr + n, mask=n < N, other=0.0) if ROW_SCALES else tl.load(scale_ptr)
    w_ptrs = w_ptr + n.to(tl.int64) * K + k
    for plane in tl.static_range(4):
        code = (packed << (30 - 2 * plane)) >> 30  # the field is the code in two's complement
        w = code.to(tl.float32) * scale
        inside = (n < N) & (byte < B) & (plane * APART + k < K)
        tl.store(w_ptrs + plane * APART, w.to(w_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def dequantize_activation_kernel(
    x_q_ptr,  # (M, K) int8
    x_scale_ptr,  # (M,) float32
    x_ptr,  # (M, K) float
    M,
    K,
    PDL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    tiles = tl.cdiv(K, BLOCK_K)
    m = (tl.program_id(0) // tiles * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = (tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    place, inside = m.to(tl.int64) * K + k, (m < M) & (k < K)
    x = tl.load(x_q_ptr + place, mask=inside, other=0).to(tl.float32)
    x = x * tl.load(x_scale_ptr + m, mask=m < M, other=0.0)
    tl.store(x_ptr + place, x.to(x_ptr.dtype.element_ty), mask=inside)


def bind_weight(problem: Problem, config: TileConfig) -> Bound:
    """Bind w_packed (N, B), w_scale -> w (N, K)."""
    num_bytes = row_bytes(problem.in_features)
    programs = triton.cdiv(problem.out_features, config.block_n) * triton.cdiv(num_bytes, config.block_bytes)
    constants = {
        "N": problem.out_features,
        "K": problem.in_features,
        "B": num_bytes,
        **order(problem),
        "ROW_SCALES": problem.scale == "row",
        "PDL": target.supports_pdl(problem.gpu),
        "BLOCK_N": config.block_n,
        "BLOCK_B": config.block_bytes,
    }
    launch = Launch(dequantize_weight_kernel, programs, ("w_packed", "w_scale", "w"), constants, config.num_warps)
    return Bound(lambda rows: (launch,))


def bind_activation(problem: Problem, config: TileConfig) -> Bound:
    """Bind x_q (M, K), x_scale (M,) -> x (M, K)."""

    def launches(rows: int) -> tuple[Launch, ...]:
        constants = {
            "M": rows,
            "K": problem.in_features,
            "PDL": target.supports_pdl(problem.gpu),
            "BLOCK_M": config.block_n,
            "BLOCK_K": config.block_bytes,
        }
        programs = triton.cdiv(rows, config.block_n) * triton.cdiv(problem.in_features, config.block_bytes)
        operands = ("x_q", "x_scale", "x")
        return (Launch(dequantize_activation_kernel, programs, operands, constants, config.num_warps),)

    return Bound(launches)


def weight_configs(problem: Problem) -> tuple[TileConfig, ...]:
    """Return the configs for weights, the likeliest best first."""
    return TileConfig(32, 64, 8), TileConfig(16, 64, 4), TileConfig(16, 128, 4), TileConfig(8, 64, 2)


def activation_configs(problem: Problem) -> tuple[TileConfig, ...]:
    """Return the configs for activations, the likeliest best first."""
    return TileConfig(4, 1024, 4), TileConfig(8, 512, 4), TileConfig(2, 1024, 2), TileConfig(1, 256, 1)


def weight_unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel for weights cannot run a problem, or None."""
    if problem.layout not in I2_LAYOUTS:
        return f"reads the layouts {' and '.join(I2_LAYOUTS)}, not {problem.layout!r}"
    if problem.scale == "group":
        return "takes tensor and row scales, not group scales"
    return target.unsupported_reason(problem.gpu)


def activation_unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel for activations cannot run a problem, or None."""
    return target.unsupported_reason(problem.gpu)


KERNELS = (
    Kernel("triton.dequantize_weight", "dequantize_weight", bind_weight, weight_configs, weight_unsupported_reason),
    Kernel(
        "triton.dequantize_activation",
        "dequantize_activation",
        bind_activation,
        activation_configs,
        activation_unsupported_reason,
    ),
)
