"""`rms_norm_gradients`: the gradients of y = x r w with r = 1 / sqrt(mean x^2 + eps), in float32 (arXiv 1910.07467).

    dx = r (dy w - x r^2 mean(dy w x))        dw = sum over rows of dy x r

Rows are dealt out to programs in turn. A program keeps its sum of dw in registers; a second launch adds these up.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch, Scratch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.problem import Problem

MAX_FEATURES = 16384  # of a row that a program's registers hold
ADDED = 32  # features that a program of the second launch adds up
PARTS = 32  # sums that it adds at a time


@dataclass(frozen=True)
class GradientsConfig:
    """The shares of programs in the rows.

    Attributes:
        num_warps: of a program.
        programs: per multiprocessor.
        ahead: whether a program loads its next row while it computes one; wide rows leave no registers for it.
    """

    num_warps: int
    programs: int
    ahead: bool = True


@triton.jit(do_not_specialize=["M"])  # one form for every number of rows
def norm_gradients_kernel(
    dy_ptr,  # (M, K) float
    x_ptr,  # (M, K) float
    weight_ptr,  # (K,) float
    eps,
    dx_ptr,  # (M, K) float
    sums_ptr,  # (programs, K) float32
    M,
    K: tl.constexpr,
    PDL: tl.constexpr,
    AHEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    k = tl.arange(0, BLOCK)
    inside = k < K
    weight = tl.load(weight_ptr + k, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    count = tl.full((), K, tl.float32)
    place, distance = tl.program_id(0).to(tl.int64) * K + k, tl.num_programs(0).to(tl.int64) * K
    if AHEAD:
        next_x = tl.load(x_ptr + place, mask=inside, other=0.0)
        next_dy = tl.load(dy_ptr + place, mask=inside, other=0.0)
    for row in tl.range(tl.program_id(0), M, tl.num_programs(0)):
        if AHEAD:
            x, dy = next_x.to(tl.float32), next_dy.to(tl.float32)
            more = inside & (row + tl.num_programs(0) < M)
            next_x = tl.load(x_ptr + place + distance, mask=more, other=0.0)
            next_dy = tl.load(dy_ptr + place + distance, mask=more, other=0.0)
        else:
            x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
        scaled = dy * weight
        r = tl.div_rn(tl.full((), 1.0, tl.float32), tl.sqrt_rn(tl.sum(x * x, axis=0) / count + eps))
        back = r * r * (tl.sum(scaled * x, axis=0) / count)
        tl.store(dx_ptr + place, (r * (scaled - x * back)).to(dx_ptr.dtype.element_ty), mask=inside)
        sums += dy * (x * r)
        place += distance
    tl.store(sums_ptr + tl.program_id(0).to(tl.int64) * K + k, sums, mask=inside)


@triton.jit(do_not_specialize=["P"])
def add_sums_kernel(
    sums_ptr,  # (P, K) float32
    dw_ptr,  # (K,) float
    P,
    K,
    PDL: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    k, part = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    total = tl.zeros((BLOCK_P, BLOCK_K), tl.float32)
    for start in tl.range(0, P, BLOCK_P):
        mask = (start + part < P)[:, None] & (k < K)[None, :]
        total += tl.load(sums_ptr + (start + part)[:, None] * K + k[None, :], mask=mask, other=0.0)
    tl.store(dw_ptr + k, tl.sum(total, axis=0).to(dw_ptr.dtype.element_ty), mask=k < K)


def bind(problem: Problem, config: GradientsConfig) -> Bound:
    """Bind dy (M, K), x, weight (K,), eps -> dx (M, K), dw (K,)."""
    features, pdl = problem.in_features, target.supports_pdl(problem.gpu)

    def programs(rows: int) -> int:
        return min(rows, config.programs * target.multiprocessors(problem.gpu))

    def launches(rows: int) -> tuple[Launch, ...]:
        block = max(32 * config.num_warps, triton.next_power_of_2(features))
        going = {"M": rows, "K": features, "PDL": pdl, "AHEAD": config.ahead, "BLOCK": block}
        adding = {"P": programs(rows), "K": features, "PDL": pdl, "BLOCK_P": PARTS, "BLOCK_K": ADDED}
        operands = ("dy", "x", "weight", "eps", "dx", "sums")
        return (
            Launch(norm_gradients_kernel, programs(rows), operands, going, config.num_warps),
            Launch(add_sums_kernel, triton.cdiv(features, ADDED), ("sums", "dw"), adding, 4),
        )

    def scratch(rows: int) -> Scratch:
        return {"sums": (programs(rows) * features, "float32")}

    return Bound(launches, scratch)


def configs(problem: Problem) -> tuple[GradientsConfig, ...]:
    """Return the configs, first the winner on an H100: 16 features per thread, and few programs where rows are wide."""
    block = triton.next_power_of_2(problem.in_features)
    warps = min(16, max(1, block // 512))
    programs, ahead = (8 if block <= 1024 else 2 if block <= 4096 else 1), block <= 8192
    candidates = (
        GradientsConfig(warps, programs, ahead),
        GradientsConfig(max(1, warps // 2), programs, ahead),
        GradientsConfig(min(16, 2 * warps), max(1, programs // 2), ahead),
        GradientsConfig(max(1, warps // 2), min(8, 2 * programs), False),
    )
    return tuple(dict.fromkeys(candidates))


def space(problem: Problem) -> tuple[GradientsConfig, ...]:
    """Return configs of 4 to 64 features per thread and 1 to 8 programs per multiprocessor."""
    block = triton.next_power_of_2(problem.in_features)
    configs = (GradientsConfig(*config) for config in product((1, 2, 4, 8, 16), (1, 2, 4, 8), (True, False)))
    return tuple(c for c in configs if c.num_warps == 1 or 4 <= block // (32 * c.num_warps) <= 64)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, or None."""
    if problem.in_features > MAX_FEATURES:
        return f"takes up to {MAX_FEATURES} features, which a program's registers hold"
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.rms_norm_gradients", "rms_norm_gradients", bind, configs, unsupported_reason, space),)
