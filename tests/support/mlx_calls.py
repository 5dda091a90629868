"""Kernels of the MLX backend on NumPy arrays. Half types are the bits that `halves.stored` gives."""

import mlx.core as mx
import numpy as np

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.mlx.plain import KERNELS as PLAIN
from bitnet_jit.kernels.mlx.quantized import KERNELS as QUANTIZED
from bitnet_jit.ops.calls import bind_call
from bitnet_jit.ops.op import OPS

KERNELS = {kernel.name: kernel for kernel in (*PLAIN, *QUANTIZED)}


def to_array(numbers, dtype=None):
    """Return an array; uint16 are the bits of bfloat16 where that is asked for; None stays."""
    if numbers is None:
        return None
    array = mx.array(numbers)
    return mx.view(array, mx.bfloat16) if dtype == "bfloat16" else array


def to_numpy(array):
    """Return an array's numbers; those of half types as float32."""
    return np.array(array.astype(mx.float32) if array.dtype in (mx.bfloat16, mx.float16) else array)


def run_rows(name, problem, *arguments, config=0):
    """Run a kernel on arrays in rows, as it is bound; return what it gives back, as NumPy arrays in a tuple."""
    kernel = KERNELS[name]
    assert kernel.unsupported_reason(problem) is None
    results = kernel.bind(problem, kernel.all_configs(problem)[config])(*arguments)
    return tuple(map(to_numpy, results if isinstance(results, tuple) else (results,)))


def bound_call(name, problem, leading):
    """Return a kernel's call on arrays or tensors of any leading dimensions."""
    kernel = KERNELS[name]
    operands = OPS[problem.op].spec.operands_of(problem, leading)
    return bind_call(kernel, kernel.bind(problem, kernel.configs(problem)[0]), operands, None)


def laid(w_q, layout):
    """Return codes (N, K) as an array in a layout."""
    known = registry.get_layout(layout)
    return mx.array(known.from_canonical(known.format.pack(w_q), *w_q.shape))
