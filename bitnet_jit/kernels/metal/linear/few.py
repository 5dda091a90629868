"""Products of few rows: each simdgroup has some outputs, and its lanes share K.

One row is bound by the weights' bytes where a weight costs few operations. Apple's GPUs convert and shift at a quarter
of the rate of a multiply-add, so one way of decoding writes the exponents of halves (`sources/codes.h`).
"""

from dataclasses import dataclass

from bitnet_jit.kernels.metal.launch import SIMD, Launch
from bitnet_jit.kernels.metal.layout import WORD, padded_inputs
from bitnet_jit.kernels.metal.linear.parts import CODE, FINISH, Inputs, finish_constants, groups_of
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

CONVERSION, EXPONENT, BYTES = 0, 1, 2  # ways to multiply a word
MAX_ROWS = 16
MAX_FUSED_ROWS = 2  # every simdgroup makes the codes of its rows
SOURCE = Source(
    "few",
    ("x", "x_scale", "w", "w_scale", "bias"),
    ("y",),
    ("run.h", "codes.h", "reduce.h", "quantize.h", "finish.h"),
    ("WAY", "ROWS", "OUTS", "WORDS", "SIMDGROUPS", "QUANTIZES", "X", "CODE", *FINISH),
)


@dataclass(frozen=True)
class Config:
    """How a kernel of few rows is cut.

    Attributes:
        way: to multiply a word: by conversion (0), by exponents (1), or by dot products of bytes (2).
        rows: of a simdgroup.
        outs: outputs of a simdgroup.
        words: that a lane takes at a time: 1, 2 or 4.
        simdgroups: of a threadgroup.
    """

    way: int
    rows: int
    outs: int
    words: int
    simdgroups: int


def launch(problem: Problem, rows: int, config: Config, inputs: Inputs) -> Launch:
    """Return the launch for some rows of codes, or of floats that count as they are."""
    return launch_on(problem, rows, config, inputs, code(config) if problem.activation != "a16" else problem.x_dtype)


def fused_launch(problem: Problem, rows: int, config: Config, inputs: Inputs) -> Launch:
    """Return the launch for some rows of floats, whose codes it makes itself."""
    return launch_on(problem, rows, config, inputs, problem.x_dtype, quantizes=True)


def launch_on(
    problem: Problem, rows: int, config: Config, inputs: Inputs, x_dtype: str, quantizes: bool = False
) -> Launch:
    """Return the launch for some rows of a dtype."""
    row_words = padded_inputs(problem.in_features) // WORD
    size, groups = groups_of(problem)
    constants: dict[str, int | bool | str] = {
        "WAY": config.way,
        "ROWS": config.rows,
        "OUTS": config.outs,
        "WORDS": config.words,
        "SIMDGROUPS": config.simdgroups,
        "QUANTIZES": quantizes,
        "X": x_dtype,
        "CODE": "int8" if config.way == BYTES else x_dtype,
        **finish_constants(problem, inputs),
    }
    outputs = config.outs * config.simdgroups
    return Launch(
        SOURCE,
        inputs.operands(problem),
        ("y",),
        constants,
        (rows, problem.out_features, row_words, row_words if groups == 1 else size // WORD, groups),
        (-(-problem.out_features // outputs), -(-rows // config.rows), 1),
        SIMD * config.simdgroups,
    )


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return the likely configs: on GPUs with dot products of bytes, NVIDIA's, those."""
    rows = min(4, problem.rows)
    if has_byte_products(problem):
        return Config(BYTES, rows, 4, 4, 4), Config(BYTES, rows, 4, 1, 4), Config(CONVERSION, rows, 4, 1, 4)
    return tuple(Config(way, rows, 4, 1, 4) for way in (EXPONENT, CONVERSION))


def has_byte_products(problem: Problem) -> bool:
    """Return whether a problem is of codes, on a GPU that multiplies bytes."""
    return problem.activation != "a16" and problem.gpu is not None and problem.gpu.arch.startswith("sm_")


def space(problem: Problem) -> tuple[Config, ...]:
    """Return all that may be the fastest."""
    return tuple(
        Config(way, rows, outs, words, simdgroups)
        for way in ((BYTES,) if has_byte_products(problem) else (EXPONENT, CONVERSION))
        for rows in dict.fromkeys((min(2, problem.rows), min(4, problem.rows), min(8, problem.rows)))
        for outs in (2, 4, 8)
        for words in (1, 2, 4)
        for simdgroups in (1, 2, 4, 8)
        if rows * outs <= 32
    )


def code(config: Config) -> str:
    """Return the dtype in which codes are read."""
    return "int8" if config.way == BYTES else CODE


def fused_unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel that makes codes itself refuses, or None."""
    if problem.activation == "a8g":
        return "takes int8 activations with one scale per row, not one per group (a8g)"
    return None if problem.rows <= MAX_FUSED_ROWS else f"takes up to {MAX_FUSED_ROWS} rows"


def unsupported_reason(problem: Problem) -> str | None:
    """Return why the kernel refuses, or None."""
    return None if problem.rows <= MAX_ROWS else f"takes up to {MAX_ROWS} rows"
