"""`head_logits`: products of floats, or of int8 rows and hidden states of 15 bits, whose sums are whole numbers.

    head of floats    logits = sum x w, in float32
    head of int8      q = 128 high + low; logits = float32(sum q code) * (x_scale * head_scale)

Lanes of a simdgroup share K, in an order that K alone sets: a row has the same bits beside any others. Sums of high and
of low stay whole in float32 for as many inputs as a lane has up to K = 2^15.
"""

from dataclasses import dataclass

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.metal.launch import SIMD, Bound, Launch, Scratch
from bitnet_jit.kernels.metal.rowwise.rows import shares
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

MAX_EXACT_INPUTS = 2**15  # 127 * 128 times the inputs of a lane, of 32, is at most 2^24
MIN_NUMBERS = 8  # of a head; MLX hands fewer over in the address space for constants
WIDTHS = (8, 4, 2, 1)  # numbers of the head that a lane reads at once, of int8; of floats not the first one
MAX_SUMS = 32  # of a lane, each with a row and an output
HIDDEN = Source(
    "hidden",
    ("x",),
    ("codes", "x_scale"),
    ("reduce.h", "quantize.h", "gates.h"),
    ("SIMDGROUPS", "HELD"),
)
HEAD = Source(
    "head",
    ("x", "x_scale", "head", "head_scale"),
    ("logits",),
    ("run.h",),
    ("SIMDGROUPS", "ROWS", "OUTS", "WIDTH", "CODES", "W"),
)


@dataclass(frozen=True)
class HeadConfig:
    """How a launch is cut.

    Attributes:
        rows: of x, of a simdgroup.
        outs: rows of the head, of a simdgroup.
        simdgroups: of a threadgroup.
    """

    rows: int
    outs: int
    simdgroups: int


def bind(problem: Problem, config: HeadConfig) -> Bound:
    """Bind the op: the product, behind the quantizer of hidden states where the head is of int8."""
    if problem.w_dtype != "int8":
        return Bound(lambda rows: (product(problem, rows, config),))

    def scratch(rows: int) -> Scratch:
        return {"codes": ((2 * rows, problem.in_features), "float16"), "x_scale": ((rows,), "float32")}

    return Bound(lambda rows: (hidden_codes(problem, rows), product(problem, rows, config)), scratch)


def hidden_codes(problem: Problem, rows: int) -> Launch:
    """Return the launch that quantizes hidden states."""
    simdgroups, held = shares(problem.in_features)
    return Launch(
        HIDDEN,
        ("x",),
        ("codes", "x_scale"),
        {"SIMDGROUPS": simdgroups, "HELD": held},
        (problem.in_features,),
        (rows, 1, 1),
        SIMD * simdgroups,
    )


def product(problem: Problem, rows: int, config: HeadConfig) -> Launch:
    """Return the launch of the product."""
    codes = problem.w_dtype == "int8"
    widths = WIDTHS if codes else WIDTHS[1:]
    return Launch(
        HEAD,
        ("codes", "x_scale", "head", "head_scale") if codes else ("x", None, "head", None),
        ("logits",),
        {
            "SIMDGROUPS": config.simdgroups,
            "ROWS": config.rows,
            "OUTS": config.outs,
            "WIDTH": next(width for width in widths if problem.in_features % width == 0),
            "CODES": codes,
            "W": problem.w_dtype,
        },
        (rows, problem.out_features, problem.in_features),
        (-(-problem.out_features // (config.outs * config.simdgroups)), -(-rows // config.rows), 1),
        SIMD * config.simdgroups,
    )


def configs(problem: Problem) -> tuple[HeadConfig, ...]:
    """Return the likely configs."""
    rows = min(4, problem.rows)
    return HeadConfig(rows, 4, 4), HeadConfig(rows, 2, 4)


def space(problem: Problem) -> tuple[HeadConfig, ...]:
    """Return all that may be the fastest."""
    parts = 2 if problem.w_dtype == "int8" else 1
    return tuple(
        HeadConfig(rows, outs, simdgroups)
        for rows in dict.fromkeys(min(count, problem.rows) for count in (1, 2, 4, 8))
        for outs in (1, 2, 4, 8)
        for simdgroups in (1, 2, 4, 8)
        if rows * parts * outs <= MAX_SUMS
    )


def unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel refuses, or None."""
    if problem.w_dtype == "int8" and problem.in_features > MAX_EXACT_INPUTS:
        return f"adds codes in float32, exactly up to K = {MAX_EXACT_INPUTS}, got K = {problem.in_features}"
    if problem.out_features * problem.in_features < MIN_NUMBERS:
        return f"takes heads of at least {MIN_NUMBERS} numbers"
    return None


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernel of the op."""
    return (Kernel(f"{backend}.head_logits", "head_logits", bind, configs, unsupported_reason, space),)
