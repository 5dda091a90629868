"""Activation quantization, norms, and their fusions with gates and sums: a threadgroup per row, by one source.

A row's values stay in registers where a thread has few enough of them, and are read and made again otherwise. How many
threads share a row follows from the number of features alone, and with it the order in which squares are added up: a
row's bits do not depend on the rows beside it, nor on what is done with its codes.
"""

from dataclasses import dataclass

from bitnet_jit.kernels.choices import one_config, takes_all
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.metal.launch import SIMD, Bound, Launch
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

MAX_SIMDGROUPS = 16  # of a row: more threads would have fewer registers each
FEATURES = 8 * SIMD  # that a simdgroup has at least
MAX_HELD = 40  # values in a thread's registers
ROWS = Source(
    "rows",
    ("x", "other", "weight", "eps"),
    ("total", "y", "x_scale"),
    ("reduce.h", "quantize.h", "norm.h", "gates.h"),
    ("SIMDGROUPS", "HELD", "GATE", "NORM", "CODES", "TOTAL", "X", "Y"),
)


@dataclass(frozen=True)
class Kind:
    """The values of which rows are made.

    Attributes:
        gate: its number in sources/gates.h.
        x, other: names of the tensors.
        total: whether the values are given back, too.
    """

    gate: int
    x: str = "gate"
    other: str | None = "up"
    total: bool = False


PLAIN, ADD = Kind(0, "x", None), Kind(1, "x", "delta", total=True)
RELU2, SILU, SIGMOID, GELU = map(Kind, (2, 3, 4, 5))
OPS = {  # their kinds, and whether they give codes
    "quantize_activation": (PLAIN, True),
    "rms_norm": (PLAIN, False),
    "rms_norm_quantize": (PLAIN, True),
    "add_rms_norm": (ADD, False),
    "add_rms_norm_quantize": (ADD, True),
    "relu2_mul_norm": (RELU2, False),
    "relu2_mul_norm_quantize": (RELU2, True),
    "silu_mul_norm": (SILU, False),
    "silu_mul_norm_quantize": (SILU, True),
    "sigmoid_mul_norm": (SIGMOID, False),
    "gelu_mul_norm": (GELU, False),
}


@dataclass(frozen=True)
class Made:
    """What a launch makes of rows beside their sums.

    Attributes:
        y: name of the codes or floats.
        x_scale: name of the codes' scales; None: y is floats.
        dtype: of y.
        stride: numbers of a row of y, of which the last ones are 0.
        size: inputs that share a scale; 0: a row's.
    """

    y: str
    x_scale: str | None
    dtype: str
    stride: int
    size: int = 0


def launch(problem: Problem, rows: int, kind: Kind, has_norm: bool, made: Made) -> Launch:
    """Return the launch for some rows; a norm's weight and epsilon are "weight" and "eps"."""
    size = made.size or problem.in_features
    groups = -(-problem.in_features // size)
    simdgroups, held = shares(size)
    constants: dict[str, int | bool | str] = {
        "SIMDGROUPS": simdgroups,
        "HELD": held,
        "GATE": kind.gate,
        "NORM": has_norm,
        "CODES": made.x_scale is not None,
        "TOTAL": kind.total,
        "X": problem.x_dtype,
        "Y": made.dtype,
    }
    return Launch(
        ROWS,
        (kind.x, kind.other, *(("weight", "eps") if has_norm else (None, None))),
        ("total" if kind.total else None, made.y, made.x_scale),
        constants,
        (problem.in_features, size, made.stride, groups),
        (rows, groups, 1),
        SIMD * simdgroups,
    )


def shares(size: int) -> tuple[int, int]:
    """Return the simdgroups that share a row of some size, and how many values a thread holds; 0: none.

    >>> [shares(size) for size in (1, 2560, 6912, 2**18)]
    [(1, 1), (10, 8), (16, 14), (16, 0)]
    """
    simdgroups = min(MAX_SIMDGROUPS, -(-size // FEATURES))
    held = -(-size // (SIMD * simdgroups))
    return simdgroups, held if held <= MAX_HELD else 0


def bind(problem: Problem, config: Config) -> Bound:
    """Bind an op on rows."""
    kind, codes = OPS[problem.op]
    made = Made(
        "x_q" if codes else "y",
        "x_scale" if codes else None,
        "int8" if codes else problem.x_dtype,
        problem.in_features,
    )
    return Bound(lambda rows: (launch(problem, rows, kind, bool(problem.bias), made),))


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of the ops on rows; a choice would add up squares in another order."""
    return tuple(Kernel(f"{backend}.{op}", op, bind, one_config, takes_all) for op in OPS)
