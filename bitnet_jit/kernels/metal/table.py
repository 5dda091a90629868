"""The table of Metal kernels: every algorithm as a kernel of each op that it serves, named for a backend."""

from functools import partial

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.metal.linear import few, many
from bitnet_jit.kernels.metal.linear.algorithm import Algorithm, bind_bit_linear, bind_codes, bind_floats
from bitnet_jit.kernels.metal.linear.refusals import all_of, codes_refused, floats_refused, unsupported_reason

PRODUCTS = (
    Algorithm("few", few.launch, few.configs, few.space, few.unsupported_reason, few.code),
    Algorithm("many", many.launch, many.configs, many.space, many.unsupported_reason, many.code),
)
OPS = {"bit_linear": bind_bit_linear, "quantized_linear": bind_codes, "ternary_matmul": bind_codes}


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
            f"{backend}.{algorithm.name}_a16",
            "bit_linear",
            partial(bind_floats, algorithm=algorithm),
            algorithm.configs,
            all_of(algorithm.unsupported_reason, floats_refused, unsupported_reason),
            algorithm.space,
        )
        for algorithm in PRODUCTS
    )
    return on_codes + on_floats


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return all kernels, named for the backend that launches them."""
    return linear_kernels(backend)
