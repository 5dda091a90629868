"""The table of Metal kernels: every algorithm as a kernel of each op that it serves, named for a backend."""

from collections.abc import Callable
from functools import partial

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.metal.attention import paged
from bitnet_jit.kernels.metal.head import logits
from bitnet_jit.kernels.metal.launch import Bound
from bitnet_jit.kernels.metal.linear import few, many
from bitnet_jit.kernels.metal.linear.algorithm import (
    FUSED,
    Algorithm,
    bind_bit_linear,
    bind_codes,
    bind_floats,
    bind_fused,
    bind_in_one,
)
from bitnet_jit.kernels.metal.linear.refusals import (
    Refusal,
    all_of,
    codes_refused,
    floats_refused,
    groups_of_x_refused,
    unsupported_reason,
)
from bitnet_jit.kernels.metal.rowwise import embedding, hadamard, rows

Bind = Callable[..., Bound]
PRODUCTS = (
    Algorithm("few", few.launch, few.configs, few.space, few.unsupported_reason, few.code),
    Algorithm("many", many.launch, many.configs, many.space, many.unsupported_reason, many.code),
)
IN_ONE = Algorithm("fused", few.fused_launch, few.configs, few.space, few.fused_unsupported_reason, few.code)
OPS = {"bit_linear": bind_bit_linear, "quantized_linear": bind_codes, "ternary_matmul": bind_codes}
FLOAT_OPS = {"bit_linear": "a16", "packed_logits": "packed_logits"}  # and how their kernels are named


def linear_kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of the linear ops."""
    in_one = of_algorithm(f"{backend}.fused_bit_linear", "bit_linear", bind_in_one, IN_ONE, codes_refused)
    on_codes = tuple(
        of_algorithm(f"{backend}.{algorithm.name}_{op}", op, bind, algorithm, codes_refused)
        for algorithm in PRODUCTS
        for op, bind in OPS.items()
    )
    on_floats = tuple(
        of_algorithm(f"{backend}.{algorithm.name}_{name}", op, bind_floats, algorithm, floats_refused)
        for algorithm in PRODUCTS
        for op, name in FLOAT_OPS.items()
    )
    return in_one, *on_codes, *on_floats


def of_algorithm(name: str, op: str, bind: Bind, algorithm: Algorithm, activation_refused: Refusal) -> Kernel:
    """Return the kernel of an op that an algorithm serves."""
    return Kernel(
        name,
        op,
        partial(bind, algorithm=algorithm),
        algorithm.configs,
        all_of(algorithm.unsupported_reason, activation_refused, unsupported_reason),
        algorithm.space,
    )


def fused_kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of layers with what stands before them."""
    refused = all_of(codes_refused, groups_of_x_refused)
    return tuple(
        of_algorithm(f"{backend}.{algorithm.name}_{op}", op, bind_fused, algorithm, refused)
        for algorithm in PRODUCTS
        for op in FUSED
    )


def writing_kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels that write into tensors of their calls, too."""
    return paged.kernels(backend)


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels that write into what they make alone, named for the backend that launches them."""
    return (
        *linear_kernels(backend),
        *fused_kernels(backend),
        *rows.kernels(backend),
        *hadamard.kernels(backend),
        *embedding.kernels(backend),
        *logits.kernels(backend),
    )
