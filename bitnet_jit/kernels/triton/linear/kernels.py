"""The linear ops by the kernels that multiply: what becomes of x first, and which kernels are asked for how many rows.

`bit_linear` quantizes x in the order that its product reads. Given codes are in natural order and are read as they lie,
unless their rows do not begin at whole words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Launch, Scratch
from bitnet_jit.kernels.triton.layout import I2_LAYOUTS, PLANES, in_chunks, padded_inputs
from bitnet_jit.kernels.triton.linear import arrange, fused_gemv, gemm, gemv, input_grad, planes, small, split
from bitnet_jit.kernels.triton.rowwise import rows
from bitnet_jit.problem import MAX_IN_FEATURES, Problem

Refusal = Callable[[Problem], str | None]


def no_scratch(problem: Problem, m: int, config: Config) -> Scratch:
    """What most ways to multiply need."""
    return {}


@dataclass(frozen=True)
class Way:
    """A way to multiply x and packed weights.

    Attributes:
        name: of its kernels, with the op behind it.
        launches: (problem, rows, config, the operand of x, its stride, whether that is in natural order) -> launches.
        chunks: whether it wants x in the order of chunks where x has to be written anyhow.
        configs: as for a kernel.
        space: as for a kernel.
        refusals: as for a kernel, the most telling first.
        priority: as for a kernel.
        scratch: (problem, rows, config) -> what lies between its own launches.
        late: whether it is the faster for beginning only when all that is ahead of the quantizer has ended.
    """

    name: str
    launches: Callable[[Problem, int, Config, str, int, bool], tuple[Launch, ...]]
    chunks: bool
    configs: Callable[[Problem], tuple[Config, ...]]
    space: Callable[[Problem], tuple[Config, ...]]
    refusals: tuple[Refusal, ...]
    priority: Callable[[Problem], int] = lambda problem: -2
    scratch: Callable[[Problem, int, Config], Scratch] = no_scratch
    late: Callable[[Problem], bool] = lambda problem: False


def single(launch: Callable[..., Launch]) -> Callable[..., tuple[Launch, ...]]:
    """A launch as the only one of a way."""
    return lambda *arguments: (launch(*arguments),)


def bind_codes(problem: Problem, config: Config, way: Way) -> Bound:
    """`quantized_linear` and `ternary_matmul`: x_q (M, K) in natural order."""
    in_features, stride, natural = problem.in_features, padded_inputs(problem), not in_chunks(problem)
    whole = in_features % ALIGN == 0  # rows of codes begin at whole words

    def launches(m: int) -> tuple[Launch, ...]:
        if whole:
            return way.launches(problem, m, config, "x_q", in_features, natural)
        product = way.launches(problem, m, config, "x_padded", stride, not way.chunks)
        return arrange.launch(problem, m, way.chunks and natural), *product

    def scratch(m: int) -> Scratch:
        padded = {} if whole else {"x_padded": (m * stride, "int8")}
        return padded | way.scratch(problem, m, config)

    return Bound(launches, scratch)


def bind_bit_linear(problem: Problem, config: Config, way: Way) -> Bound:
    """Quantize x, multiply its codes."""
    stride, quantizer = padded_inputs(problem), rows.configs(problem)[0]
    chunks = way.chunks and not in_chunks(problem)

    def launches(m: int) -> tuple[Launch, ...]:
        quantize = rows.launch(problem, m, quantizer, "quantize_activation", stride, chunks, way.late(problem))
        return quantize, *way.launches(problem, m, config, "x_q", stride, not way.chunks)

    def scratch(m: int) -> Scratch:
        return {"x_q": (m * stride, "int8"), "x_scale": (m, "float32"), **way.scratch(problem, m, config)}

    return Bound(launches, scratch)


def bind_floats(problem: Problem, config: Config, way: Way) -> Bound:
    """`bit_linear` with activation="a16": x (M, K) as it is."""
    return Bound(lambda m: way.launches(problem, m, config, "x", problem.in_features, True))


def unsupported_reason(problem: Problem) -> str | None:
    """What all kernels refuse, in words."""
    if problem.layout not in PLANES:
        return f"reads the layouts {' and '.join(PLANES)}, not {problem.layout!r}"
    if problem.in_features >= MAX_IN_FEATURES and problem.op in ("quantized_linear", "ternary_matmul"):
        return f"takes given codes of fewer than {MAX_IN_FEATURES} inputs: 64 times their sum must fit in 32 bits"
    return target.unsupported_reason(problem.gpu)


def groups_unsupported_reason(problem: Problem) -> str | None:
    """What the kernels for scales of tensors or rows refuse."""
    return "takes tensor and row scales, not group scales" if problem.scale == "group" else None


def i2_unsupported_reason(problem: Problem) -> str | None:
    """What the kernels for i2 and scales of tensors or rows refuse."""
    if problem.layout not in I2_LAYOUTS:
        return f"reads the layouts {' and '.join(I2_LAYOUTS)}, not {problem.layout!r}"
    return groups_unsupported_reason(problem)


def planes_unsupported_reason(problem: Problem) -> str | None:
    """What the kernels refuse that read planes of whole rows."""
    return f"reads planes of whole rows, not {problem.layout}" if in_chunks(problem) else None


def takes_rows(fewest: int, most: int) -> Refusal:
    """Refuses every other number of rows."""
    return lambda problem: None if fewest <= problem.rows <= most else f"takes {fewest} to {most} rows"


def codes_unsupported_reason(problem: Problem) -> str | None:
    """What the kernels that multiply codes refuse."""
    return "serves activation='a8'" if problem.activation == "a16" else None


def floats_unsupported_reason(problem: Problem) -> str | None:
    """What the kernels that multiply floats refuse."""
    return "serves activation='a16'" if problem.activation == "a8" else None


def all_of(*refusals: Refusal) -> Refusal:
    """Refuses what any of them refuses, in the words of the first."""
    return lambda problem: next((reason for refusal in refusals if (reason := refusal(problem))), None)


def way_unsupported_reason(way: Way, activations_unsupported_reason: Refusal) -> Refusal:
    """What the kernels of a way refuse: chunks, too, unless it wants x in their order."""
    own = way.refusals if way.chunks else (*way.refusals, planes_unsupported_reason)
    return all_of(*own, activations_unsupported_reason, unsupported_reason)


FOR_CODES = (
    Way(
        "gemv",
        single(gemv.launch),
        False,
        gemv.configs,
        gemv.space,
        (gemv.unsupported_reason, groups_unsupported_reason),
        gemv.priority,
    ),
    Way(
        "small",
        single(small.launch),
        True,
        small.configs,
        small.space,
        (takes_rows(small.MIN_ROWS, small.MAX_ROWS), i2_unsupported_reason),
        small.priority,
        late=small.late,
    ),
    Way("gemm", single(gemm.launch), True, gemm.configs, gemm.space, (i2_unsupported_reason,)),
    Way(
        "split",
        split.launches,
        True,
        split.configs,
        split.space,
        (takes_rows(split.MIN_ROWS, split.MAX_ROWS), i2_unsupported_reason),
        split.priority,
        split.scratch,
    ),
    Way("planes", single(planes.launch), False, planes.configs, planes.space, (planes.unsupported_reason,)),
)
FOR_FLOATS = (
    Way("gemm", single(gemm.launch), False, gemm.float_configs, gemm.float_space, (i2_unsupported_reason,)),
    Way("planes", single(planes.launch), False, planes.configs, planes.space, (planes.unsupported_reason,)),
)
OPS = {"bit_linear": bind_bit_linear, "quantized_linear": bind_codes, "ternary_matmul": bind_codes}
KERNELS = (
    Kernel(
        "triton.fused_bit_linear",
        "bit_linear",
        fused_gemv.bind,
        fused_gemv.configs,
        all_of(
            codes_unsupported_reason,
            unsupported_reason,
            fused_gemv.unsupported_reason,
            groups_unsupported_reason,
            planes_unsupported_reason,
        ),
        fused_gemv.space,
        fused_gemv.priority,
    ),
    *(
        Kernel(
            f"triton.{way.name}_{op}",
            op,
            partial(bind, way=way),
            way.configs,
            way_unsupported_reason(way, codes_unsupported_reason),
            way.space,
            way.priority,
        )
        for way in FOR_CODES
        for op, bind in OPS.items()
    ),
    *(
        Kernel(
            f"triton.{way.name}_a16",
            "bit_linear",
            partial(bind_floats, way=way),
            way.configs,
            way_unsupported_reason(way, floats_unsupported_reason),
            way.space,
            way.priority,
        )
        for way in FOR_FLOATS
    ),
    Kernel(
        "triton.input_grad",
        "bit_linear_input_grad",
        input_grad.bind,
        input_grad.configs,
        all_of(i2_unsupported_reason, unsupported_reason),
        input_grad.space,
    ),
)
