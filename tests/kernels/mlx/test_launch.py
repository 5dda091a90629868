"""Launches on MLX's arrays: numbers of a call, outputs that it does not have, and kernels that write are refused."""

import numpy as np
import pytest

pytest.importorskip("mlx", reason="the package mlx is not installed")

import mlx.core as mx
from metal_host.fake_mlx import metal
from metal_host.host import find_compiler

from bitnet_jit import reference
from bitnet_jit.kernels.mlx.metal import KERNELS
from bitnet_jit.kernels.mlx.tensors import bind_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

BY_OP = {kernel.op: kernel for kernel in KERNELS if kernel.op.endswith(("norm", "attention"))}


def bound(op, leading, features):
    """Return the call of an op on arrays with some leading dimensions."""
    problem = Problem(op, "mlx", 8, features, features, bias="float32")
    return bind_call(BY_OP[op].bind(problem, None), OPS[op].spec.operands_of(problem, leading))


@pytest.mark.parametrize("features", [1, 33])
def test_epsilon_is_that_of_the_call(features):
    x, weight = np.full((2, 3, features), 0.01, np.float32), np.ones(features, np.float32)
    with metal():
        call = bound("rms_norm", (2, 3), features)
        for eps in (1e-6, 1.0):
            y = np.array(call(mx.array(x), mx.array(weight), eps))
            wanted = reference.rms_norm(x.reshape(6, features), weight, eps).reshape(x.shape)
            np.testing.assert_allclose(y, wanted, rtol=1e-6)


def test_an_op_gives_back_the_outputs_that_it_has():
    x, weight = mx.ones((4, 33)), mx.ones(33)
    with metal():
        total, y = bound("add_rms_norm", (4,), 33)(x, x, weight, 0.0)
        lone = bound("relu2_mul_norm", (4,), 33)(x, x, weight, 0.0)
        assert mx.array_equal(total, 2 * x)
        assert mx.array_equal(y, x)
        assert mx.array_equal(lone, x)
