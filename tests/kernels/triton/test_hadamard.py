"""Rotations of the Triton backend: the bits of the reference, alone and behind norms and gates."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_calls import ON_GPU, call, every, max_examples, needs_device, problem_of

from bitnet_jit import reference
from bitnet_jit.kernels.triton import BACKEND
from bitnet_jit.kernels.triton.rowwise.hadamard import OPERANDS

EPS = 1e-5
PLAIN = ("hadamard", "inverse_hadamard")
FUSED = tuple(op for op in OPERANDS if op not in PLAIN)
BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
KERNELS = {kernel.op: kernel for kernel in BACKEND.kernels()}


def rotation_problem(op, rows, features, block, dtype="float32", signed=True):
    bias = "float32" if op != "silu_mul_hadamard" and signed else ""
    return problem_of(op, (rows, features, features), x_dtype=dtype, y_dtype=dtype, bias=bias, block=block)


def draw(rows, features, extreme=None):
    """Draw x and other (M, K), weight and signs (K,); the middle row of x has an extreme value."""
    rng = np.random.default_rng(rows * 1009 + features)
    x, other = rng.standard_normal((2, rows, features), dtype=np.float32)
    if extreme is not None and rows:
        x[rows // 2, features // 3] = extreme
    weight = rng.random(features, dtype=np.float32) + 0.5
    return x, other, weight, rng.choice(np.array([-1, 1], np.float32), features)


def operands(op, x, other, weight, signs):
    both = (x, other) if op.startswith(("add", "silu")) else (x,)
    return (*both, weight, EPS, signs) if "norm" in op else (*both, signs)


def last(result):
    return result[-1] if isinstance(result, tuple) else result


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy in the interpreter, of infinity
@needs_device
@every(*(rotation_problem(op, 1, 64, 16) for op in PLAIN))
@max_examples
@given(
    block=st.sampled_from(BLOCKS),
    count=st.sampled_from([1, 2, 3, 17]),
    rows=st.sampled_from([1, 0, 3]),
    extreme=st.sampled_from([None, -0.0, 1e-41, 3e38, np.nan, np.inf]),
    signed=st.booleans(),
    pick=st.integers(0, 999),
)
def test_rotations_are_exact(kernel, block, count, rows, extreme, signed, pick):
    features = block * count if block < 2048 else block
    x, _, _, signs = draw(rows, features, extreme)
    problem = rotation_problem(kernel.op, rows, features, block, signed=signed)
    configs = kernel.all_configs(problem)
    y = call(kernel, problem, configs[pick % len(configs)], x, signs if signed else None)
    expected = getattr(reference, kernel.op)(x, signs if signed else None, block)
    assert np.array_equal(y, expected, equal_nan=True)


@needs_device
@every(*(rotation_problem(op, 1, 64, 16) for op in FUSED))
@pytest.mark.parametrize(("rows", "features", "block"), [(3, 1040, 16), (1, 384, 128), (2, 2048, 1024)])
def test_fused_ops_have_the_bits_of_their_steps(kernel, rows, features, block):
    x, other, weight, signs = draw(rows, features)
    problem = rotation_problem(kernel.op, rows, features, block)
    result = call(kernel, problem, kernel.configs(problem)[0], *operands(kernel.op, x, other, weight, signs))
    first = kernel.op.removesuffix("_hadamard")
    first = "silu_mul_norm" if first == "silu_mul" else first
    of_first = problem_of(first, (rows, features, features), bias=problem.bias)
    steps = (x, other) if first != "rms_norm" else (x,)
    steps += (weight, EPS) if "norm" in kernel.op else (None, 0.0)
    before = call(KERNELS[first], of_first, KERNELS[first].configs(of_first)[0], *steps)
    assert np.array_equal(last(result), reference.hadamard(last(before), signs, block))
    if isinstance(result, tuple):
        assert np.array_equal(result[0], x + other)
    wanted = last(getattr(reference, kernel.op)(*operands(kernel.op, x, other, weight, signs), block))
    np.testing.assert_allclose(last(result), wanted, rtol=1e-4, atol=1e-5)


@needs_device
@every(rotation_problem("silu_mul_hadamard", 1, 64, 16))
def test_gate_and_up_may_be_parts_of_one_tensor(kernel):
    gate, up = torch.randn(3, 256).chunk(2, -1)
    problem = rotation_problem(kernel.op, 3, 128, 64)
    signs = draw(1, 128)[3]
    y = call(kernel, problem, kernel.configs(problem)[0], gate, up, signs)
    wanted = reference.silu_mul_hadamard(gate.numpy(), up.numpy(), signs, 64)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not ON_GPU, reason="the interpreter truncates floats to bfloat16; this needs a GPU")
@pytest.mark.parametrize("op", OPERANDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_round_once_and_rows_do_not_depend_on_others(op, dtype):
    arrays = [torch.from_numpy(a) for a in draw(130, 5120)]
    x, other = (a.to(dtype) for a in arrays[:2])
    name = str(dtype).removeprefix("torch.")
    problem = rotation_problem(op, 130, 5120, 1024, name)
    wanted = last(call(KERNELS[op], problem, KERNELS[op].configs(problem)[0], *operands(op, x, other, *arrays[2:])))
    if op in PLAIN:
        exact = getattr(reference, op)(x.float().numpy(), arrays[3].numpy(), 1024)
        assert np.array_equal(wanted, torch.from_numpy(exact).to(dtype).float().numpy().astype(wanted.dtype))
    for rows in (1, 17):
        problem = rotation_problem(op, rows, 5120, 1024, name)
        for config in KERNELS[op].all_configs(problem):
            part = operands(op, x[:rows], other[:rows], *arrays[2:])
            assert np.array_equal(last(call(KERNELS[op], problem, config, *part)), wanted[:rows])


@pytest.mark.parametrize("op", OPERANDS)
def test_small_blocks_are_refused_in_words(op):
    problem = rotation_problem(op, 1, 8, 8)
    assert KERNELS[op].unsupported_reason(problem) == "blocks of 8 are smaller than 16"
