"""What a bound kernel hands out must outlive it: calls keep the parts, not the whole."""

import ctypes

import numpy as np

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.numba.linear.sizes import Sizes, sizes_of
from bitnet_jit.problem import Problem


def test_sizes_outlive_the_bound_kernel():
    problem = Problem("ternary_matmul", "cpu", 1, 37, 70, "i2/n64k16", "a8", "int8", "int32")
    kernel = next(kernel for kernel in registry.backend("numba").kernels if kernel.unsupported_reason(problem) is None)
    (sizes,) = kernel.bind(problem, kernel.configs(problem)[0]).numbers(3)
    others = [np.full(len(Sizes._fields), -1, np.int64) for _ in range(1000)]  # would take the place of freed memory
    read = (ctypes.c_int64 * len(Sizes._fields)).from_address(sizes)
    assert tuple(read) == sizes_of(problem, 3, 1)
    assert len(others) == 1000
