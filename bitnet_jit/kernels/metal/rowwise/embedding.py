"""`embedding` and `packed_embedding`: the rows of token ids in a table of floats, of int8, or of packed codes."""

from bitnet_jit.kernels.choices import one_config, takes_all
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.metal.launch import SIMD, Bound, Launch
from bitnet_jit.kernels.metal.layout import I2, padded_inputs
from bitnet_jit.kernels.metal.linear.parts import SCALES
from bitnet_jit.kernels.metal.linear.refusals import layout_unsupported_reason
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

SIMDGROUPS = 8  # of a threadgroup
SOURCE = Source("embedding", ("ids", "table", "w_scale"), ("y",), (), ("SIMDGROUPS", "PACKED", "SCALE", "Y"))


def launch(problem: Problem, rows: int, table: str, w_scale: str | None, scale: str) -> Launch:
    """Return the launch for some ids."""
    features, is_packed = problem.in_features, table == "w_packed"
    size = problem.group_size or features
    return Launch(
        SOURCE,
        ("ids", table, w_scale),
        ("y",),
        {"SIMDGROUPS": SIMDGROUPS, "PACKED": is_packed, "SCALE": SCALES[scale], "Y": problem.y_dtype},
        (
            problem.out_features,
            features,
            padded_inputs(features) // I2.codes_per_byte if is_packed else features,
            size,
            -(-features // size),
        ),
        (rows, -(-features // (SIMD * SIMDGROUPS)), 1),
        SIMD * SIMDGROUPS,
    )


def bind(problem: Problem, config: Config) -> Bound:
    """Bind a table of floats or of int8."""
    w_scale, scale = ("table_scale", "row") if problem.w_dtype == "int8" else (None, "")
    return Bound(lambda rows: (launch(problem, rows, "table", w_scale, scale),))


def bind_packed(problem: Problem, config: Config) -> Bound:
    """Bind a table of packed codes."""
    return Bound(lambda rows: (launch(problem, rows, "w_packed", "w_scale", problem.scale),))


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of both ops."""
    return (
        Kernel(f"{backend}.embedding", "embedding", bind, one_config, takes_all),
        Kernel(f"{backend}.packed_embedding", "packed_embedding", bind_packed, one_config, layout_unsupported_reason),
    )
