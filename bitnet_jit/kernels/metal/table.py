"""The table of Metal kernels: every algorithm as a kernel of each op that it serves, named for a backend."""

from functools import partial

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.metal.attention import paged
from bitnet_jit.kernels.metal.head import logits
from bitnet_jit.kernels.metal.linear import few
from bitnet_jit.kernels.metal.linear.algorithm import (
    FUSED,
    Algorithm,
    bind_bit_linear,
    bind_codes,
    bind_floats,
    bind_fused,
)
from bitnet_jit.kernels.metal.linear.refusals import (
    all_of,
    codes_refused,
    floats_refused,
    groups_of_x_refused,
    unsupported_reason,
)
from bitnet_jit.kernels.metal.rowwise import embedding, hadamard, rows

PRODUCTS = (Algorithm("few", few.launch, few.configs, few.space, few.unsupported_reason, few.code),)
OPS = {"bit_linear": bind_bit_linear, "quantized_linear": bind_codes, "ternary_matmul": bind_codes}
FLOAT_OPS = {"bit_linear": "a16", "packed_logits": "packed_logits"}  # and how their kernels are named


def linear_kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of the linear ops."""
    on_codes = tuple(
        Kernel(
            f"{backend}.{algorithm.name}_{op}",
            op,
            partial(bind, algorithm=algorithm),
            algorithm.configs,
            all_of(algorithm.unsupported_reason, codes_refused, unsupported_reason),
            algorithm.space,
        )
        for algorithm in PRODUCTS
        for op, bind in OPS.items()
    )
    on_floats = tuple(
        Kernel(
            f"{backend}.{algorithm.name}_{name}",
            op,
            partial(bind_floats, algorithm=algorithm),
            algorithm.configs,
            all_of(algorithm.unsupported_reason, floats_refused, unsupported_reason),
            algorithm.space,
        )
        for algorithm in PRODUCTS
        for op, name in FLOAT_OPS.items()
    )
    return on_codes + on_floats


def fused_kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of layers with what stands before them."""
    return tuple(
        Kernel(
            f"{backend}.{algorithm.name}_{op}",
            op,
            partial(bind_fused, algorithm=algorithm),
            algorithm.configs,
            all_of(algorithm.unsupported_reason, codes_refused, groups_of_x_refused, unsupported_reason),
            algorithm.space,
        )
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
