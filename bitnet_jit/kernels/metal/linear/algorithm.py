"""An algorithm for products, and how the linear ops are made of one and of what becomes of x before it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.metal.launch import Bound, Launch, Scratch
from bitnet_jit.kernels.metal.linear.parts import Inputs, padded_rows, quantized
from bitnet_jit.kernels.metal.rowwise.rows import ADD, PLAIN, RELU2, SILU, Kind
from bitnet_jit.problem import Problem

FUSED = {  # ops of a layer with what stands before it
    "rms_norm_bit_linear": PLAIN,
    "add_rms_norm_bit_linear": ADD,
    "relu2_mul_norm_bit_linear": RELU2,
    "silu_mul_norm_bit_linear": SILU,
}


@dataclass(frozen=True)
class Algorithm:
    """A way to multiply.

    Attributes:
        name: of its kernels.
        launch: (problem, rows, config, inputs) -> the launch of the product.
        configs, space: as a kernel's.
        unsupported_reason: problem -> None, or in words.
        code: config -> the dtype in which it reads codes.
    """

    name: str
    launch: Callable[[Problem, int, Any, Inputs], Launch]
    configs: Callable[[Problem], tuple[Config, ...]]
    space: Callable[[Problem], tuple[Config, ...]]
    unsupported_reason: Callable[[Problem], str | None]
    code: Callable[[Any], str]


def bind_codes_of(problem: Problem, config: Config, algorithm: Algorithm, kind: Kind, has_norm: bool) -> Bound:
    """Bind the two launches of a layer on codes: what becomes of its input, and the product."""

    def launches(rows: int) -> tuple[Launch, ...]:
        first, inputs, _ = quantized(problem, rows, algorithm.code(config), kind, has_norm)
        return first, algorithm.launch(problem, rows, config, inputs)

    return Bound(launches, lambda rows: quantized(problem, rows, algorithm.code(config))[2])


def bind_bit_linear(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind `bit_linear` on codes."""
    return bind_codes_of(problem, config, algorithm, PLAIN, has_norm=False)


def bind_fused(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind a layer with a sum or a gate, and a norm, before it."""
    return bind_codes_of(problem, config, algorithm, FUSED[problem.op], has_norm=bool(problem.w_dtype))


def bind_given(problem: Problem, given: Inputs, dtype: str, config: Config, algorithm: Algorithm) -> Bound:
    """Bind a product of x as it is given, filled up where it has to be."""

    def launches(rows: int) -> tuple[Launch, ...]:
        before, inputs, _ = padded_rows(problem, rows, given, dtype)
        return *before, algorithm.launch(problem, rows, config, inputs)

    def scratch(rows: int) -> Scratch:
        return padded_rows(problem, rows, given, dtype)[2]

    return Bound(launches, scratch)


def bind_in_one(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind `bit_linear` as one launch, which makes the codes itself."""
    return bind_given(problem, Inputs("x"), problem.x_dtype, config, algorithm)


def bind_codes(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind an op on codes that are given: with their scales, or without any."""
    given = Inputs("x_q", "x_scale" if problem.op == "quantized_linear" else None)
    return bind_given(problem, given, algorithm.code(config), config, algorithm)


def bind_floats(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind `bit_linear` on activations in floating point."""
    return bind_given(problem, Inputs("x"), problem.x_dtype, config, algorithm)
