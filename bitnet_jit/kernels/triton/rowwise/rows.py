"""Row-wise ops: activation quantization, RMSNorm, and their fusions; one program per row.

    rms_norm              y = x * (1 / sqrt(mean x^2 + eps)) * weight                     (arXiv 1910.07467)
    add_rms_norm          the same of x + delta rounded to x's dtype, which is given back, too
    relu2_mul_norm        the same of relu(gate)^2 * up                                   (arXiv 2504.12285)
    silu_mul_norm         the same of gate / (1 + exp(-gate)) * up; the norm may be absent
    sigmoid_mul_norm      the same of up / (1 + exp(-gate))
    gelu_mul_norm         the same of gate / (1 + exp(-2 u)) * up, u = sqrt(2 / pi) (gate + 0.044715 gate^3)
    quantize_activation   x_q = rint(x * (127 / max|x|)), half to even; x_scale = max|x| / 127
    *_quantize            both, y not rounded before

A row passes up to three times: squares, largest magnitude, outputs. Where it fits into registers the compiler makes
that one load. The order in which squares are added up follows from the block alone (device/row.py), and ops with a norm
have one block, by the number of features: a row's bits do not depend on the rows beside it, nor on the kernel.

Codes for a linear layer are padded with zeros to whole chunks of its weight's layout, in one of two orders of K:
natural, or chunks, where position 256 c + 64 s + j holds input s * B + 64 c + j of the layout `i2/planes`, so that a
product reads whole chunks of x beside whole chunks of weights.
"""

from dataclasses import dataclass, replace
from itertools import product

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.device.quantize import code_of, code_scale, magnitude
from bitnet_jit.kernels.triton.device.row import (
    LANES,
    inputs_of_part,
    lanes_of,
    load_values,
    norm_factor,
    part_of,
    places_in_chunks,
    sum_of_lanes,
)
from bitnet_jit.kernels.triton.layout import row_bytes
from bitnet_jit.problem import Problem

ADD = "add_rms_norm_quantize"
FEW_ROWS = 64  # up to here every row has threads enough
GATES = {  # of the ops that multiply
    "relu2_mul_norm": "relu2",
    "relu2_mul_norm_quantize": "relu2",
    "silu_mul_norm": "silu",
    "silu_mul_norm_quantize": "silu",
    "sigmoid_mul_norm": "sigmoid",
    "gelu_mul_norm": "gelu",
}
KINDS = GATES | {"add_rms_norm": "add", ADD: "add"}  # of values, as `load_values` names them; "x" of the other ops
EXPONENTIAL = ("silu", "sigmoid", "gelu")  # of KINDS
OPERANDS = {
    "quantize_activation": ("x", None, None, None, None, None, "x_q", "x_scale"),
    "rms_norm": ("x", None, None, "weight", "eps", None, "y", None),
    "rms_norm_quantize": ("x", None, None, "weight", "eps", None, "x_q", "x_scale"),
    "add_rms_norm": ("x", "delta", None, "weight", "eps", "total", "y", None),
    ADD: ("x", "delta", None, "weight", "eps", "total", "x_q", "x_scale"),
    "relu2_mul_norm": ("gate", "up", "row_stride", "weight", "eps", None, "y", None),
    "relu2_mul_norm_quantize": ("gate", "up", "row_stride", "weight", "eps", None, "x_q", "x_scale"),
    "silu_mul_norm": ("gate", "up", "row_stride", "weight", "eps", None, "y", None),
    "silu_mul_norm_quantize": ("gate", "up", "row_stride", "weight", "eps", None, "x_q", "x_scale"),
    "sigmoid_mul_norm": ("gate", "up", "row_stride", "weight", "eps", None, "y", None),
    "gelu_mul_norm": ("gate", "up", "row_stride", "weight", "eps", None, "y", None),
}


@dataclass(frozen=True)
class RowConfig:
    """A program takes `block` elements of its row at a time, a power of two."""

    block: int
    num_warps: int


@triton.jit
def normalized(x, factor, weight_ptr, k, inside):
    """Return x * factor * weight, or x where there is no norm."""
    if weight_ptr is not None:
        x = x * factor * tl.load(weight_ptr + k, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit
def row_kernel(
    x_ptr,  # (M, K) float; the gate where there is an up
    other_ptr,  # (M, K) float: up, or what is added to x
    x_stride,  # distance of the rows of x and other, in elements; None: K
    weight_ptr,  # (K,) float
    eps,
    total_ptr,  # (M, K) float: sums of x and other
    y_ptr,  # (M, STRIDE): codes int8, or floats
    scale_ptr,  # (M,) float32, where y is codes
    K: tl.constexpr,
    WORDS: tl.constexpr,  # of four inputs, in a quarter of a row
    STRIDE: tl.constexpr,  # of y: K, or more where codes are padded
    CHUNKS: tl.constexpr,  # the order of K in y: chunks; else natural
    KIND: tl.constexpr,  # see `load_values`
    PDL: tl.constexpr,
    LATE: tl.constexpr,  # let the next kernel begin behind the wait only
    SIZE: tl.constexpr,  # words of each quarter at a time
):
    gdc_launch_dependents(PDL and not LATE)
    gdc_wait(PDL)
    gdc_launch_dependents(PDL and LATE)
    row = tl.program_id(0).to(tl.int64)
    first = row * (K if x_stride is None else x_stride)
    x_ptr += first
    other_ptr = other_ptr + first if other_ptr is not None else None
    factor = 1.0
    if weight_ptr is not None:
        lanes = tl.zeros((LANES,), tl.float32)
        for part in range(0, WORDS, SIZE):
            k, there = inputs_of_part(part, SIZE, WORDS)
            x = load_values(x_ptr, other_ptr, k, there & (k < K), KIND)
            lanes += lanes_of(x * x, SIZE)
        factor = norm_factor(sum_of_lanes(lanes), eps, K)
    if scale_ptr is None:
        for part in range(0, WORDS, SIZE):
            k, there = inputs_of_part(part, SIZE, WORDS)
            inside = there & (k < K)
            x = load_values(x_ptr, other_ptr, k, inside, KIND)
            y = normalized(x, factor, weight_ptr, k, inside)
            tl.store(y_ptr + row * STRIDE + k, y.to(y_ptr.dtype.element_ty), mask=inside)
            if total_ptr is not None:
                tl.store(total_ptr + row * K + k, x.to(total_ptr.dtype.element_ty), mask=inside)
    else:
        largest = tl.zeros((SIZE,), tl.int32)
        for part in range(0, WORDS, SIZE):
            k, there = inputs_of_part(part, SIZE, WORDS)
            inside = there & (k < K)
            y = normalized(load_values(x_ptr, other_ptr, k, inside, KIND), factor, weight_ptr, k, inside)
            largest = tl.maximum(largest, tl.max(tl.max(magnitude(y), axis=2), axis=0))
        bad, to_codes, scale = code_scale(tl.max(largest, axis=0))
        for part in range(0, WORDS, SIZE):
            k, there = inputs_of_part(part, SIZE, WORDS)
            inside = there & (k < K)
            x = load_values(x_ptr, other_ptr, k, inside, KIND)
            y = normalized(x, factor, weight_ptr, k, inside)
            place = places_in_chunks(part, SIZE) if CHUNKS else k
            code = code_of(y, bad, to_codes).to(tl.int8)
            tl.store(y_ptr + row * STRIDE + place, code, mask=there & (k < STRIDE))
            if total_ptr is not None:
                tl.store(total_ptr + row * K + k, x.to(total_ptr.dtype.element_ty), mask=inside)
        if STRIDE > 16 * WORDS:
            k = 16 * WORDS + tl.arange(0, 512)
            tl.store(y_ptr + row * STRIDE + k, tl.zeros((512,), tl.int8), mask=k < STRIDE)
        tl.store(scale_ptr + row, scale)


def launch(
    problem: Problem, rows: int, config: RowConfig, op: str, stride: int, chunks: bool, late: bool = False
) -> Launch:
    """Return the launch of `op`: its operands -> y (rows, K), or codes (rows, stride) and their scales."""
    absent = {"row_stride"} if problem.in_features % ALIGN else set()
    absent |= set() if problem.bias else {"weight", "eps"}
    return Launch(
        row_kernel,
        programs=rows,
        operands=tuple(None if name in absent else name for name in OPERANDS[op]),
        constants={
            "K": problem.in_features,
            "WORDS": row_bytes(problem.in_features) // 4,
            "STRIDE": stride,
            "CHUNKS": chunks,
            "KIND": KINDS.get(op, "x"),
            "PDL": target.supports_pdl(problem.gpu),
            "LATE": late,
            "SIZE": config.block // 16,
        },
        num_warps=config.num_warps,
    )


def add_norm(problem: Problem, rows: int, y: str) -> Launch:
    """Return the launch that normalizes x + delta, rounded to x's dtype as `rms_norm` does, into a tensor named y."""
    made = launch(problem, rows, fixed(problem)[0], ADD, problem.in_features, False)
    return replace(made, operands=("x", "delta", None, "weight", "eps", None, y, None))


def bind(problem: Problem, config: RowConfig) -> Bound:
    late = problem.op == QUANTIZE  # in training the weights of the next product are of a moment ago
    return Bound(lambda rows: (launch(problem, rows, config, problem.op, problem.in_features, False, late),))


def block_of(problem: Problem) -> int:
    """Return the elements of a row that a program takes at a time: all while its registers hold them."""
    return 16 * part_of(row_bytes(problem.in_features) // 4)


def fixed(problem: Problem) -> tuple[RowConfig, ...]:
    """Return the one config of an op with sums: more warps for few rows, which wait, than for rows that compete."""
    block, heavy = block_of(problem), 2 if KINDS.get(problem.op) in EXPONENTIAL else 1  # which keeps threads busy
    spread = 2 if problem.rows <= FEW_ROWS else 1
    return (RowConfig(block, min(16, max(4, spread * heavy * block // 1024))),)


def configs(problem: Problem) -> tuple[RowConfig, ...]:
    """Return configs of whole rows while a program's registers hold them, of few warps where many rows run at once."""
    block = block_of(problem)
    many = min(16, max(1, block // 512))
    few = max(1, block // (2048 if block <= 4096 else 1024))
    first = (few, 2 * few, many, 2 * many) if problem.rows >= 512 else (many, 2 * many, few)
    candidates = (*(RowConfig(block, min(16, warps)) for warps in first), RowConfig(min(block, 4096), 8))
    return tuple(dict.fromkeys(candidates))


def space(problem: Problem) -> tuple[RowConfig, ...]:
    """Return configs of whole rows or a part of them at once, by any number of warps."""
    block = block_of(problem)
    pairs = product(sorted({block, min(block, 4096), min(block, 2048)}), (1, 2, 4, 8, 16, 32))
    return tuple(RowConfig(part, warps) for part, warps in pairs if 4 <= part // (32 * warps) <= 128)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, or None."""
    return target.unsupported_reason(problem.gpu)


QUANTIZE = "quantize_activation"  # the op without sums: its bits are the same by any config
KERNELS = (
    Kernel(f"triton.{QUANTIZE}", QUANTIZE, bind, configs, unsupported_reason, space),
    *(Kernel(f"triton.{op}", op, bind, fixed, unsupported_reason, version=3) for op in OPERANDS if op != QUANTIZE),
)
