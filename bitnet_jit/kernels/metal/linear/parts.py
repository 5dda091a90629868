"""What linear kernels have in common: which tensors are multiplied, and how x becomes what a product reads.

A product reads rows of x that are filled up to whole runs of words. Codes are halves, which hold them exactly and cost
no conversion; x in floating point stays as it is.
"""

from dataclasses import dataclass, replace

from bitnet_jit.kernels.metal.launch import SIMD, Launch, Scratch
from bitnet_jit.kernels.metal.layout import RUN, padded_inputs
from bitnet_jit.kernels.metal.rowwise.rows import PLAIN, Kind, Made, launch
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

GROUP = "group"
SCALES = {"": 0, "tensor": 1, "row": 2, GROUP: 3}  # as sources/few.metal knows them
FINISH = ("SCALE", "HAS_X_SCALE", "X_BY_GROUP", "HAS_BIAS", "Y")  # constants of every product's last steps
PAD = Source("pad", ("x",), ("padded",), (), ("SIMDGROUPS", "CODE"))
SIMDGROUPS = 8  # of a threadgroup that fills a row up
CODE = "float16"


@dataclass(frozen=True)
class Inputs:
    """The tensors of a product by their names in the call.

    Attributes:
        x: codes or floats, rows filled up.
        x_scale: of codes; None: x counts as it is.
        by_group: whether a row has a scale per group.
    """

    x: str
    x_scale: str | None = None
    by_group: bool = False

    def operands(self, problem: Problem) -> tuple[str | None, ...]:
        """Return what a product's source is handed."""
        w_scale = "w_scale" if problem.scale else None
        return self.x, self.x_scale, "w_packed", w_scale, "bias" if problem.bias else None


def groups_of(problem: Problem) -> tuple[int, int]:
    """Return the inputs that share a scale, and how many groups of them a row has."""
    size = min(problem.group_size, problem.in_features) if problem.scale == GROUP else problem.in_features
    return size, -(-problem.in_features // size)


def finish_constants(problem: Problem, inputs: Inputs) -> dict[str, int | bool | str]:
    """Return the constants by which a product is scaled and rounded."""
    return {
        "SCALE": SCALES[problem.scale],
        "HAS_X_SCALE": inputs.x_scale is not None and not inputs.by_group,
        "X_BY_GROUP": inputs.by_group,
        "HAS_BIAS": bool(problem.bias),
        "Y": problem.y_dtype,
    }


def quantized(
    problem: Problem, rows: int, code: str, kind: Kind = PLAIN, has_norm: bool = False
) -> tuple[Launch, Inputs, Scratch]:
    """Return the launch that makes codes of x or of a gate, what a product reads then, and where it lies."""
    by_group, padded = problem.activation == "a8g", padded_inputs(problem.in_features)
    size, groups = groups_of(problem) if by_group else (problem.in_features, 1)
    made = Made("codes", "x_scale", code, padded, size)
    scratch: Scratch = {"codes": ((rows, padded), code), "x_scale": ((rows, groups), "float32")}
    return launch(problem, rows, kind, has_norm, made), Inputs("codes", "x_scale", by_group), scratch


def padded_rows(problem: Problem, rows: int, given: Inputs, dtype: str) -> tuple[tuple[Launch, ...], Inputs, Scratch]:
    """Return what fills rows of x up as another dtype; nothing where they are what a product reads."""
    padded = padded_inputs(problem.in_features)
    if problem.in_features % RUN == 0 and dtype == problem.x_dtype:
        return (), given, {}
    filling = Launch(
        PAD,
        (given.x,),
        ("padded",),
        {"SIMDGROUPS": SIMDGROUPS, "CODE": dtype},
        (problem.in_features, padded),
        (-(-padded // (SIMD * SIMDGROUPS)), rows, 1),
        SIMD * SIMDGROUPS,
    )
    return (filling,), replace(given, x="padded"), {"padded": ((rows, padded), dtype)}
