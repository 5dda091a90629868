"""Products of many rows by matrices of 8 x 8, which a simdgroup multiplies; a threadgroup lays out tiles of operands.

The matrices add in float32. Codes and weights are exact in halves, and their sums in float32 up to K = 131,071; so y
has the bits of every other kernel. Metal's matrices know no int8.
"""

from dataclasses import dataclass

from bitnet_jit.kernels.metal.launch import SIMD, Launch
from bitnet_jit.kernels.metal.layout import padded_inputs
from bitnet_jit.kernels.metal.linear.parts import CODE, FINISH, GROUP, Inputs, finish_constants, groups_of
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

SOURCE = Source(
    "many",
    ("x", "x_scale", "w", "w_scale", "bias"),
    ("y",),
    ("run.h", "tiles.h", "finish.h"),
    ("OP", "TM", "TN", "SM", "SN", *FINISH),
)


@dataclass(frozen=True)
class Config:
    """How a product is cut.

    Attributes:
        tm, tn: matrices of y that a simdgroup has, by rows and by outputs.
        sm, sn: simdgroups of a threadgroup, likewise.
    """

    tm: int
    tn: int
    sm: int
    sn: int


def launch(problem: Problem, rows: int, config: Config, inputs: Inputs) -> Launch:
    """Return the launch for some rows."""
    grouped = problem.scale == GROUP
    operand = "float32" if grouped else CODE if problem.activation != "a16" else problem.x_dtype
    constants: dict[str, int | bool | str] = {
        **{"OP": operand, "TM": config.tm, "TN": config.tn, "SM": config.sm, "SN": config.sn},
        **finish_constants(problem, inputs),
    }
    padded, (size, groups) = padded_inputs(problem.in_features), groups_of(problem)
    tile_rows, tile_outputs = 8 * config.tm * config.sm, 8 * config.tn * config.sn
    return Launch(
        SOURCE,
        inputs.operands(problem),
        ("y",),
        constants,
        (rows, problem.out_features, padded, size, groups),
        (-(-problem.out_features // tile_outputs), -(-rows // tile_rows), 1),
        SIMD * config.sm * config.sn,
    )


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return the likely configs."""
    return Config(4, 4, 2, 2), Config(2, 4, 2, 2)


def space(problem: Problem) -> tuple[Config, ...]:
    """Return all that may be the fastest."""
    shapes = ((1, 4), (2, 2), (2, 4), (4, 2), (4, 4))
    grids = ((1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
    return tuple(Config(*shape, *grid) for shape in shapes for grid in grids)


def code(config: Config) -> str:
    """Return the dtype in which codes are read."""
    return CODE


def unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel refuses, or None."""
    return None
