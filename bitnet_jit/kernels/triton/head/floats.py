"""`head_logits` with a head of floats: logits (M, N) = x (M, K) head (N, K)^T, sums in float32.

A program multiplies a tile of the head's rows, the operand with many rows, by all of x or a tile of it. Sums are chains
of products of 16 in the order of K, whatever the tile, so that a row's logits do not depend on the rows beside it.

    x and head of one 16-bit type    multiplied as they are
    x float32, head bfloat16         x = x1 + x2 + x3 of 8 bits each, exactly: three products
    otherwise                        both widened to float32 and multiplied on no tensor core

Behind a residual sum and a norm another launch does those before, with the bits of `rms_norm`.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.linear.tiles import ELEMENT_BYTES, fitting
from bitnet_jit.kernels.triton.rowwise.rows import add_norm
from bitnet_jit.problem import Problem

NORMALIZED = "add_rms_norm_head_logits"
NORMED = "x_normed"  # a scratch tensor, (M, K) of x's dtype
SAME, TERMS, WIDE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
UPPER_BITS = tl.constexpr(-0x10000)  # 0xFFFF0000: of a float32 that is a bfloat16
FEW_OUTPUTS = 256  # such as a block's gates: with fewer rows in a tile more programs share them
INFINITY_BITS = tl.constexpr(0x7F800000)


@dataclass(frozen=True)
class HeadConfig:
    """The tile of a program: rows of x, rows of the head, and a step of K; and how many steps are on their way."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    def shared_memory(self, x_bytes: int, w_bytes: int) -> int:
        """Return the bytes of shared memory of a program."""
        return self.num_stages * self.block_k * (self.block_m * x_bytes + self.block_n * w_bytes)


@triton.jit
def upper_half(x):
    """Return the bfloat16 of the upper bits of float32 x; NaN stays."""
    bits = x.to(tl.int32, bitcast=True)
    cut = tl.where((bits & 0x7FFFFFFF) > INFINITY_BITS, bits | 0x400000, bits) & UPPER_BITS
    return cut.to(tl.float32, bitcast=True)


@triton.jit
def add_product(acc, acc2, acc3, w, x, MODE: tl.constexpr):
    """Add the product of w (rows, K) and x (rows, K) transposed to acc, of further bits of x to sums of their own.

    One sum of two products would have them in turns, as long as a step of K.
    """
    if MODE == SAME:
        acc = tl.dot(w, tl.trans(x), acc)
    elif MODE == TERMS:
        x1 = upper_half(x)
        rest = tl.where(tl.abs(x1) == float("inf"), 0.0, x - x1)
        x2 = upper_half(rest)
        acc = tl.dot(w, tl.trans(x1.to(tl.bfloat16)), acc)
        acc2 = tl.dot(w, tl.trans(x2.to(tl.bfloat16)), acc2)
        acc3 = tl.dot(w, tl.trans((rest - x2).to(tl.bfloat16)), acc3)
    else:
        acc = tl.dot(w.to(tl.float32), tl.trans(x.to(tl.float32)), acc, input_precision="ieee")
    return acc, acc2, acc3


@triton.jit(do_not_specialize=["M"])
def head_kernel(
    x_ptr,  # (M, K) float
    head_ptr,  # (N, K) float
    y_ptr,  # (M, N) float32
    M,
    N,
    K: tl.constexpr,
    MODE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    tiles = tl.cdiv(M, BLOCK_M)
    first_m, first_n = tl.program_id(0) % tiles * BLOCK_M, tl.program_id(0) // tiles * BLOCK_N
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    head_ptrs = head_ptr + first_n.to(tl.int64) * K + (tl.minimum(n, N - 1 - first_n)[:, None] * K + k[None, :])
    x_ptrs = x_ptr + first_m.to(tl.int64) * K + (m[:, None] * K + k[None, :])
    rows = (first_m + m < M)[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    acc2 = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    acc3 = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    gdc_wait(PDL)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        if K % BLOCK_K == 0:
            w = tl.load(head_ptrs + start)
            x = tl.load(x_ptrs + start, mask=rows, other=0.0)
        else:
            w = tl.load(head_ptrs + start, mask=(k < K - start)[None, :], other=0.0)
            x = tl.load(x_ptrs + start, mask=rows & (k < K - start)[None, :], other=0.0)
        acc, acc2, acc3 = add_product(acc, acc2, acc3, w, x, MODE)
    y_ptrs = y_ptr + first_m.to(tl.int64) * N + first_n + (m[None, :] * N + n[:, None])
    acc = acc + (acc2 + acc3) if MODE == TERMS else acc
    tl.store(y_ptrs, acc, mask=(first_m + m < M)[None, :] & (first_n + n < N)[:, None])


def bind(problem: Problem, config: HeadConfig) -> Bound:
    """Bind x (M, K), head (N, K) -> logits (M, N)."""
    return Bound(lambda m: (multiply(problem, m, config, "x"),))


def bind_normalized(problem: Problem, config: HeadConfig) -> Bound:
    """Bind x and delta (M, K), weight (K,), eps, head (N, K) -> logits (M, N)."""
    return Bound(
        lambda m: (add_norm(problem, m, NORMED), multiply(problem, m, config, NORMED)),
        lambda m: {NORMED: (m * problem.in_features, problem.x_dtype)},
    )


def multiply(problem: Problem, m: int, config: HeadConfig, x: str) -> Launch:
    """Return the launch that multiplies the tensor named x by the head."""
    constants = {
        "M": m,
        "N": problem.out_features,
        "K": problem.in_features,
        "MODE": mode_of(problem),
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "STAGES": config.num_stages,
        "PDL": target.supports_pdl(problem.gpu),
    }
    programs = triton.cdiv(m, config.block_m) * triton.cdiv(problem.out_features, config.block_n)
    return Launch(head_kernel, programs, (x, "head", "logits"), constants, config.num_warps)


def mode_of(problem: Problem) -> int:
    """Return how x and the head are multiplied."""
    if problem.x_dtype == problem.w_dtype != "float32":
        return int(SAME.value)
    terms = (problem.x_dtype, problem.w_dtype) == ("float32", "bfloat16") and not target.interpreted()
    return int(TERMS.value if terms else WIDE.value)  # the interpreter multiplies no bfloat16


def height(problem: Problem) -> int:
    """Return the rows of x in a tile."""
    most = {SAME.value: 128, TERMS.value: 64, WIDE.value: 16}[mode_of(problem)]
    return min(most, max(16, problem.rows))


def configs(problem: Problem) -> tuple[HeadConfig, ...]:
    """Return configs by the number of rows, the likeliest best first."""
    m = height(problem)
    if mode_of(problem) == WIDE.value:
        return (HeadConfig(m, 32, 32, 4, 2),)
    if problem.out_features <= FEW_OUTPUTS and m <= 32:
        tiles = [(16, 256, 4, 4), (64, 128, 4, 4), (16, 256, 2, 3)]
    elif m == 128:
        tiles = [(256, 64, 8, 3), (128, 64, 8, 3), (128, 64, 4, 4)]
    elif m > 32 and mode_of(problem) == TERMS.value:
        tiles = [(64, 64, 4, 3), (128, 64, 8, 3)]
    elif m > 32:
        tiles = [(128, 128, 8, 4), (128, 128, 4, 3), (64, 64, 4, 6), (128, 64, 8, 3)]
    else:
        tiles = [(64, 128, 4, 4), (64, 256, 4, 3), (128, 128, 8, 4), (64, 64, 4, 3)]
    return fitting(problem, tuple(HeadConfig(m, *tile) for tile in tiles), lambda config: size(problem, config))


def space(problem: Problem) -> tuple[HeadConfig, ...]:
    """Return configs of tiles of 64 to 256 rows of the head."""
    if mode_of(problem) == WIDE.value:
        return ()
    m = height(problem)
    sizes = product((64, 128, 256), (64, 128, 256), (4, 8), (2, 3, 4, 5, 6))
    tiles = tuple(HeadConfig(m, *tile) for tile in sizes if m * tile[0] <= 128 * 256)
    return fitting(problem, tiles, lambda config: size(problem, config))


def size(problem: Problem, config: HeadConfig) -> int:
    """Return the bytes of shared memory that a config needs."""
    return config.shared_memory(ELEMENT_BYTES[problem.x_dtype], ELEMENT_BYTES[problem.w_dtype])


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.w_dtype == "int8":
        return "takes heads of floats"
    return target.unsupported_reason(problem.gpu)


KERNELS = (
    Kernel("triton.head_logits", "head_logits", bind, configs, unsupported_reason, space),
    Kernel("triton.add_rms_norm_float_head_logits", NORMALIZED, bind_normalized, configs, unsupported_reason, space),
)
