"""Hadamard rotations of rows, alone or behind a norm or a gate; a program takes a part of a row, of whole blocks.

    hadamard                 y = H (signs * x), per run of `block` features
    inverse_hadamard         y = signs * (H x)
    rms_norm_hadamard        hadamard of a norm; add_rms_norm_hadamard, of a sum's norm
    silu_mul_hadamard        hadamard of silu(gate) * up

A stage of distance d makes a + b and a - b of features a and b that lie d apart: two sums over an axis of two, which
cost an exchange where different threads hold the pair, and nothing where one does. Stages run in the order that
`reference/hadamard.py` fixes, and each sum is of two numbers, so the bits are those of every other kernel.

Behind a norm every program of a row adds up all squares, in the order of device/row.py.
"""

from dataclasses import dataclass
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.row import (
    LANES,
    inputs_of_part,
    lanes_of,
    load_values,
    norm_factor,
    part_of,
    sum_of_lanes,
)
from bitnet_jit.kernels.triton.layout import row_bytes
from bitnet_jit.kernels.triton.rowwise.rows import normalized
from bitnet_jit.problem import Problem

INVERSE = "inverse_hadamard"
MIN_SIZE, MAX_SIZE = 1024, 8192  # features of a program
MIN_BLOCK = 16
OPERANDS = {
    "hadamard": ("x", None, None, None, None, None, "signs", "y"),
    INVERSE: ("x", None, None, None, None, None, "signs", "y"),
    "rms_norm_hadamard": ("x", None, None, "weight", "eps", None, "signs", "y"),
    "add_rms_norm_hadamard": ("x", "delta", None, "weight", "eps", "total", "signs", "y"),
    "silu_mul_hadamard": ("gate", "up", "row_stride", None, None, None, "signs", "y"),
}
KINDS = {"silu_mul_hadamard": "silu", "add_rms_norm_hadamard": "add"}  # of values, as `load_values` names them


@dataclass(frozen=True)
class RotationConfig:
    """A program takes `size` features, a power of two and whole blocks."""

    size: int
    num_warps: int


@triton.jit
def stage(y, DISTANCE: tl.constexpr, SIZE: tl.constexpr):
    """Run a stage on (SIZE,) float32: of each pair the sum, then the difference."""
    pairs = tl.reshape(y, (SIZE // (2 * DISTANCE), 2, DISTANCE))
    first = tl.arange(0, 2)[None, :, None] == 0
    plus = tl.sum(pairs, axis=1, keep_dims=True)
    minus = tl.sum(tl.where(first, pairs, -pairs), axis=1, keep_dims=True)
    return tl.reshape(tl.where(first, plus, minus), (SIZE,))


@triton.jit
def rotate_kernel(
    x_ptr,  # (M, K) float; the gate where there is an up
    other_ptr,  # (M, K) float: up, or what is added to x
    x_stride,  # distance of the rows of x and other, in elements; None: K
    weight_ptr,  # (K,) float
    eps,
    total_ptr,  # (M, K) float: sums of x and other
    signs_ptr,  # (K,) float32
    y_ptr,  # (M, K) float
    K: tl.constexpr,
    STAGES: tl.constexpr,  # log2 of a block
    FACTOR: tl.constexpr,  # 1 / sqrt(block)
    BACK: tl.constexpr,  # signs come last
    WORDS: tl.constexpr,  # of four inputs, in a quarter of a row
    PART: tl.constexpr,  # words of each quarter at a time, for the norm
    KIND: tl.constexpr,  # see `load_values`
    PDL: tl.constexpr,
    SIZE: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    parts: tl.constexpr = (K + SIZE - 1) // SIZE
    row = (tl.program_id(0) // parts).to(tl.int64)
    first = row * (K if x_stride is None else x_stride)
    x_ptr += first
    other_ptr = other_ptr + first if other_ptr is not None else None
    factor = 1.0
    if weight_ptr is not None:
        lanes = tl.zeros((LANES,), tl.float32)
        for part in range(0, WORDS, PART):
            place, there = inputs_of_part(part, PART, WORDS)
            x = load_values(x_ptr, other_ptr, place, there & (place < K), KIND)
            lanes += lanes_of(x * x, PART)
        factor = norm_factor(sum_of_lanes(lanes), eps, K)
    k = tl.program_id(0) % parts * SIZE + tl.arange(0, SIZE)
    inside = k < K
    x = load_values(x_ptr, other_ptr, k, inside, KIND)
    if total_ptr is not None:
        tl.store(total_ptr + row * K + k, x.to(total_ptr.dtype.element_ty), mask=inside)
    y = normalized(x, factor, weight_ptr, k, inside)
    if signs_ptr is not None and not BACK:
        y *= tl.load(signs_ptr + k, mask=inside, other=1.0)
    for n in tl.static_range(STAGES):
        y = stage(y, 1 << n, SIZE)
    y *= FACTOR
    if signs_ptr is not None and BACK:
        y *= tl.load(signs_ptr + k, mask=inside, other=1.0)
    tl.store(y_ptr + row * K + k, y.to(y_ptr.dtype.element_ty), mask=inside)


def launch(problem: Problem, rows: int, config: RotationConfig) -> Launch:
    """Return the launch of an op: its operands -> y (rows, K), and the sums before it where it adds."""
    features, words = problem.in_features, row_bytes(problem.in_features) // 4
    absent = {"row_stride"} if features % ALIGN else set()
    absent |= set() if problem.bias or problem.op not in ("hadamard", INVERSE) else {"signs"}
    return Launch(
        rotate_kernel,
        programs=rows * -(-features // config.size),
        operands=tuple(None if name in absent else name for name in OPERANDS[problem.op]),
        constants={
            "K": features,
            "STAGES": problem.block.bit_length() - 1,
            "FACTOR": problem.block**-0.5,
            "BACK": problem.op == INVERSE,
            "WORDS": words,
            "PART": part_of(words),
            "KIND": KINDS.get(problem.op, "x"),
            "PDL": target.supports_pdl(problem.gpu),
            "SIZE": config.size,
        },
        num_warps=config.num_warps,
    )


def bind(problem: Problem, config: RotationConfig) -> Bound:
    """Return the kernel bound to a problem."""
    return Bound(lambda rows: (launch(problem, rows, config),))


def configs(problem: Problem) -> tuple[RotationConfig, ...]:
    """Return configs of one block or more per program, of few warps: stages across warps wait for all of them."""
    size = max(MIN_SIZE, problem.block)
    candidates = [RotationConfig(size, warps) for warps in (4, 2, 1, 8) if 4 <= size // (32 * warps) <= 64]
    return tuple(candidates)


def space(problem: Problem) -> tuple[RotationConfig, ...]:
    """Return configs of any number of blocks per program, by any number of warps."""
    sizes = [size for size in (256, 512, 1024, 2048, 4096, 8192) if size >= problem.block]
    pairs = product(sizes, (1, 2, 4, 8, 16))
    return tuple(RotationConfig(size, warps) for size, warps in pairs if 4 <= size // (32 * warps) <= 64)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, or None."""
    if problem.block < MIN_BLOCK:
        return f"blocks of {problem.block} are smaller than {MIN_BLOCK}"
    return target.unsupported_reason(problem.gpu)


KERNELS = tuple(Kernel(f"triton.{op}", op, bind, configs, unsupported_reason, space) for op in OPERANDS)
