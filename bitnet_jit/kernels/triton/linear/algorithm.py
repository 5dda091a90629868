"""Algorithms for the product of x and packed weights, and how the linear ops use one: the launch on x before it.

`bit_linear` quantizes x in the order that its product reads. Given codes are in natural order and are read as they lie,
unless their rows do not begin at whole words.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bitnet_jit.kernels.kernel import Config
from bitnet_jit.kernels.triton.device.launch import ALIGN, Bound, Launch, Scratch
from bitnet_jit.kernels.triton.layout import in_chunks, padded_inputs
from bitnet_jit.kernels.triton.linear import arrange
from bitnet_jit.kernels.triton.linear.refusals import Refusal
from bitnet_jit.kernels.triton.rowwise import rows
from bitnet_jit.problem import Problem


def no_scratch(problem: Problem, m: int, config: Config) -> Scratch:
    """Return the scratch tensors of most algorithms: none."""
    return {}


@dataclass(frozen=True)
class Algorithm:
    """An algorithm for the product of x and packed weights.

    Attributes:
        name: of its kernels, with the op behind it.
        launches: (problem, rows, config, the operand of x, its stride, whether that is in natural order) -> launches.
        chunks: whether it wants x in the order of chunks where x has to be written anyhow.
        configs: as for a kernel.
        space: as for a kernel.
        refusals: as for a kernel, the most telling first.
        priority: as for a kernel.
        scratch: (problem, rows, config) -> the tensors between its launches.
        late: whether it is faster when it begins only after all that is ahead of the quantizer has ended.
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
    """Return the `launches` of an algorithm with one launch."""
    return lambda *arguments: (launch(*arguments),)


def bind_codes(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind `quantized_linear` or `ternary_matmul`: x_q (M, K) in natural order."""
    in_features, stride, natural = problem.in_features, padded_inputs(problem), not in_chunks(problem)
    whole = in_features % ALIGN == 0  # rows of codes begin at whole words

    def launches(m: int) -> tuple[Launch, ...]:
        if whole:
            return algorithm.launches(problem, m, config, "x_q", in_features, natural)
        product = algorithm.launches(problem, m, config, "x_padded", stride, not algorithm.chunks)
        return arrange.launch(problem, m, algorithm.chunks and natural), *product

    def scratch(m: int) -> Scratch:
        padded = {} if whole else {"x_padded": (m * stride, "int8")}
        return padded | algorithm.scratch(problem, m, config)

    return Bound(launches, scratch)


def bind_bit_linear(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind `bit_linear`: quantize x, multiply its codes."""
    stride, quantizer = padded_inputs(problem), rows.configs(problem)[0]
    chunks, late = algorithm.chunks and not in_chunks(problem), algorithm.late(problem)

    def launches(m: int) -> tuple[Launch, ...]:
        quantize = rows.launch(problem, m, quantizer, "quantize_activation", stride, chunks, late)
        return quantize, *algorithm.launches(problem, m, config, "x_q", stride, not algorithm.chunks)

    def scratch(m: int) -> Scratch:
        codes = {"x_q": (m * stride, "int8"), "x_scale": (m, "float32")}
        return codes | algorithm.scratch(problem, m, config)

    return Bound(launches, scratch)


def bind_floats(problem: Problem, config: Config, algorithm: Algorithm) -> Bound:
    """Bind `bit_linear` with activation="a16": x (M, K) as it is."""
    return Bound(lambda m: algorithm.launches(problem, m, config, "x", problem.in_features, True))
