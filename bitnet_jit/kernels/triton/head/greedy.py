"""`greedy`: the first largest logit of each row, NaN larger than any number; then the next step's token and position.

A program of the first launch takes a part of a row, so that one row of a large vocabulary keeps a GPU busy; a program
of the second one takes the parts of a row. Logits are compared as integers of the same order: all NaN are the largest
int32, and -0.0 equals 0.0. So the result is the same whatever the parts.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from bitnet_jit import problem as problems
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch, Scratch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.quantize import INFINITY_BITS, magnitude
from bitnet_jit.problem import Problem

NO_TOKEN = tl.constexpr(problems.NO_TOKEN)
PARTS = ("part_keys", "part_places")  # scratch tensors: the largest of each part, and where it stands
SMALLEST, LARGEST = tl.constexpr(-(2**31)), tl.constexpr(2**31 - 1)


@dataclass(frozen=True)
class GreedyConfig:
    """A program takes `block` logits of its row, a power of two."""

    block: int
    num_warps: int


@triton.jit
def order_key(x):
    """Return int32 of the order of float32; NaN is the largest."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(x != x, LARGEST, bits ^ ((bits >> 31) & LARGEST))


@triton.jit
def first_largest(keys, places):
    """Return the largest of some keys, and the lowest of its places."""
    key = tl.max(keys, axis=0)
    return key, tl.min(tl.where(keys == key, places, LARGEST), axis=0)


@triton.jit
def part_kernel(
    logits_ptr,  # (M, N) float32
    keys_ptr,  # (M, PARTS) int32: the largest of a part
    places_ptr,  # (M, PARTS) int32: its place in the row
    N,
    PARTS: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    row, part = (tl.program_id(0) // PARTS).to(tl.int64), tl.program_id(0) % PARTS
    n = part * BLOCK + tl.arange(0, BLOCK)
    gdc_wait(PDL)
    x = tl.load(logits_ptr + row * N + n, mask=n < N, other=0.0)
    key, place = first_largest(tl.where(n < N, order_key(x), SMALLEST), n)
    tl.store(keys_ptr + tl.program_id(0), key)
    tl.store(places_ptr + tl.program_id(0), place)


@triton.jit
def greedy_kernel(
    logits_ptr,  # (M, N) float32
    keys_ptr,  # (M, PARTS) int32
    places_ptr,  # (M, PARTS) int32
    tokens_ptr,  # (M,) int64
    positions_ptr,  # (M,) int32, or None
    largest_ptr,  # (M,) float32
    code_ptr,  # (M,) int64
    N,
    PARTS: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    row, part = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    gdc_wait(PDL)
    keys = tl.load(keys_ptr + row * PARTS + part, mask=part < PARTS, other=SMALLEST)
    places = tl.load(places_ptr + row * PARTS + part, mask=part < PARTS, other=LARGEST)
    _, place = first_largest(keys, places)
    largest = tl.load(logits_ptr + row * N + place)
    token = place.to(tl.int64)
    tl.store(tokens_ptr + row, token)
    tl.store(largest_ptr + row, largest)
    tl.store(code_ptr + row, tl.where(magnitude(largest) < INFINITY_BITS, token, NO_TOKEN))
    if positions_ptr is not None:
        position = tl.load(positions_ptr + row)
        tl.store(positions_ptr + row, tl.where(position < 0, position, position + 1))


def bind(problem: Problem, config: GreedyConfig) -> Bound:
    """Bind logits (M, N), next_tokens (M,), next_positions (M,) or None -> largest (M,), code (M,)."""
    parts = triton.cdiv(problem.out_features, config.block)
    common = {"N": problem.out_features, "PARTS": parts, "PDL": target.supports_pdl(problem.gpu)}
    positions = "next_positions" if problem.bias else None
    operands = ("logits", *PARTS, "next_tokens", positions, "largest", "code")
    block = triton.next_power_of_2(parts)

    def launches(m: int) -> tuple[Launch, ...]:
        constants = common | {"BLOCK": config.block}
        by_parts = Launch(part_kernel, m * parts, ("logits", *PARTS), constants, config.num_warps)
        return by_parts, Launch(greedy_kernel, m, operands, common | {"BLOCK": block}, 1 if block <= 256 else 4)

    def scratch(m: int) -> Scratch:
        return dict.fromkeys(PARTS, (m * parts, "int32"))

    return Bound(launches, scratch)


def configs(problem: Problem) -> tuple[GreedyConfig, ...]:
    """Return configs by the number of rows: short parts where there are few."""
    short, long = GreedyConfig(1024, 4), GreedyConfig(4096, 8)
    return (short, GreedyConfig(2048, 4), long) if problem.rows <= 4 else (long, GreedyConfig(2048, 4), short)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.greedy", "greedy", bind, configs, unsupported_reason),)
