"""The linear ops by the kernels that multiply: what becomes of x first, and which kernels are asked for how many rows.

`bit_linear` quantizes x in the order that its product reads. Given codes are in natural order and are read as they lie,
unless their rows do not begin at whole words.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.triton import arrange, gemm, gemv, gemv_t5, input_grad, planes, rows, small, target
from bitnet_jit.kernels.triton.launch import Bound, Launch
from bitnet_jit.kernels.triton.layout import I2_PLANES, PLANES, padded_inputs
from bitnet_jit.problem import MAX_IN_FEATURES, Problem

ALIGN = 16  # bytes that a row of given codes must begin at a multiple of

Multiply = Callable[[Problem, int, Config, str, int, bool], Launch]  # problem, rows, config, x, its stride, natural
Refusal = Callable[[Problem], str | None]


def bind_codes(problem: Problem, config: Config, multiply: Multiply, chunks: bool) -> Bound:
    """`quantized_linear` and `ternary_matmul`: x_q (M, K) in natural order."""
    in_features, stride = problem.in_features, padded_inputs(problem)
    if in_features % ALIGN == 0:
        return Bound(problem, lambda m: (multiply(problem, m, config, "x_q", in_features, True),))

    def launches(m: int) -> tuple[Launch, ...]:
        product = multiply(problem, m, config, "x_padded", stride, not chunks)
        return arrange.launch(problem, m, chunks), product

    return Bound(problem, launches, lambda m: {"x_padded": (m * stride, "int8")})


def bind_bit_linear(problem: Problem, config: Config, multiply: Multiply, chunks: bool) -> Bound:
    """Quantize x, multiply its codes."""
    stride, quantizer = padded_inputs(problem), rows.configs(problem)[0]

    def launches(m: int) -> tuple[Launch, ...]:
        quantize = rows.launch(problem, m, quantizer, "quantize_activation", stride, chunks)
        return quantize, multiply(problem, m, config, "x_q", stride, not chunks)

    return Bound(problem, launches, lambda m: {"x_q": (m * stride, "int8"), "x_scale": (m, "float32")})


def bind_floats(problem: Problem, config: Config, multiply: Multiply) -> Bound:
    """`bit_linear` with activation="a16": x (M, K) as it is."""
    return Bound(problem, lambda m: (multiply(problem, m, config, "x", problem.in_features, True),))


def why_not(problem: Problem) -> str | None:
    """What all kernels refuse, in words."""
    if problem.layout not in PLANES:
        return f"reads the layouts {' and '.join(PLANES)}, not {problem.layout!r}"
    if problem.in_features >= MAX_IN_FEATURES and problem.op in ("quantized_linear", "ternary_matmul"):
        return f"takes given codes of fewer than {MAX_IN_FEATURES} inputs: 64 times their sum must fit in 32 bits"
    return target.why_not(problem.gpu)


def why_not_i2(problem: Problem) -> str | None:
    """What the kernels for i2 and scales of tensors or rows refuse."""
    if problem.layout != I2_PLANES.name:
        return f"reads the layout {I2_PLANES.name}, not {problem.layout!r}"
    return "takes tensor and row scales, not group scales" if problem.scale == "group" else None


def why_not_codes(problem: Problem) -> str | None:
    """What the kernels that multiply codes refuse."""
    return "serves activation='a8'" if problem.activation == "a16" else None


def why_not_floats(problem: Problem) -> str | None:
    """What the kernels that multiply floats refuse."""
    return "serves activation='a16'" if problem.activation == "a8" else None


def all_of(*refusals: Refusal) -> Refusal:
    """Refuses what any of them refuses, in the words of the first."""
    return lambda problem: next((reason for refusal in refusals if (reason := refusal(problem))), None)


WAYS: tuple[tuple[Any, ...], ...] = (  # for codes: name, multiply, whether x in chunks, configs, refusals, rank
    ("gemv", gemv.launch, False, gemv.configs, (gemv.why_not, why_not_i2), gemv.rank),
    ("small", small.launch, True, small.configs, (small.why_not, why_not_i2), small.rank),
    ("gemm", gemm.launch, True, gemm.configs, (why_not_i2,), lambda problem: 2),
    ("gemv_t5", gemv_t5.launch, False, gemv_t5.configs, (gemv_t5.why_not,), lambda problem: 0),
    ("planes", planes.launch, False, planes.configs, (planes.why_not,), lambda problem: 2),
)
OPS = {"bit_linear": bind_bit_linear, "quantized_linear": bind_codes, "ternary_matmul": bind_codes}
KERNELS = (
    *(
        Kernel(
            f"triton.{name}_{op}",
            op,
            partial(bind, multiply=multiply, chunks=chunks),
            configs,
            all_of(*refusals, why_not_codes, why_not),
            rank,
        )
        for name, multiply, chunks, configs, refusals, rank in WAYS
        for op, bind in OPS.items()
    ),
    *(
        Kernel(
            f"triton.{name}_a16",
            "bit_linear",
            partial(bind_floats, multiply=multiply),
            configs,
            all_of(refusal, why_not_floats, why_not),
        )
        for name, multiply, configs, refusal in (
            ("gemm", gemm.launch, gemm.float_configs, why_not_i2),
            ("planes", planes.launch, planes.configs, planes.why_not),
        )
    ),
    Kernel(
        "triton.input_grad",
        "bit_linear_input_grad",
        input_grad.bind,
        input_grad.configs,
        all_of(why_not_i2, why_not),
    ),
)
