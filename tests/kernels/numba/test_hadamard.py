"""Rotations of the Numba backend: the bits of the reference, alone and behind norms and gates. No torch here."""

import numpy as np
import pytest
from halves import stored, values
from hypothesis import given, settings
from hypothesis import strategies as st
from numba_calls import rounded

from bitnet_jit import reference
from bitnet_jit.kernels.numba import BACKEND
from bitnet_jit.kernels.numba.arrays import all_threads, run
from bitnet_jit.problem import EPS, Problem, rows_bucket

DTYPES = ("float32", "bfloat16", "float16")
BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
KERNELS = {kernel.op: kernel for kernel in BACKEND.kernels()}
PLAIN = {"hadamard": reference.hadamard, "inverse_hadamard": reference.inverse_hadamard}
QUICK = settings(max_examples=12)


def draw(rows, features, extreme=None):
    """Draw x and other (M, K), weight and signs (K,); the middle row of x has an extreme value."""
    rng = np.random.default_rng(rows * 1009 + features)
    x, other = rng.standard_normal((2, rows, features), dtype=np.float32)
    if extreme is not None and rows:
        x[rows // 2, features // 3] = extreme
    weight = rng.random(features, dtype=np.float32) + 0.5
    return x, other, weight, rng.choice(np.array([-1, 1], np.float32), features)


def rotate(op, dtype, block, threads=1, **operands):
    """Run a kernel; return its outputs, total (or None) and y, which were poisoned before."""
    x = operands["x"] if "x" in operands else operands["gate"]
    rows, features = x.shape
    bias = "float32" if operands.get("weight") is not None or (op in PLAIN and operands["signs"] is not None) else ""
    problem = Problem(
        op, "cpu", rows_bucket(rows), features, features, x_dtype=dtype, y_dtype=dtype, bias=bias, block=block
    )
    assert KERNELS[op].unsupported_reason(problem) is None
    total, y = (np.full(x.shape, 77, x.dtype) for _ in range(2))
    run(KERNELS[op], problem, {"eps": EPS, **operands, "total": total, "y": y}, team=all_threads(threads))
    return total, y


def same(actual, expected, dtype):
    """Whether outputs are the bits of float32 results, rounded; NaN equals NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.array_equal(values(actual, dtype), rounded(expected, dtype), equal_nan=True)


@pytest.mark.parametrize("op", PLAIN)
@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_rotations_are_exact(op, dtype, data):
    # each size below 128, and absent signs, are code of their own: once for all dtypes
    block, count = (
        data.draw(st.sampled_from(BLOCKS if dtype == "float32" else BLOCKS[3:])),
        data.draw(st.sampled_from((1, 2, 3, 17))),
    )
    rows = data.draw(st.sampled_from((0, 1, 3, 17) if block * count < 10000 else (1, 2)))
    extreme = data.draw(st.sampled_from((None, 0.0, -0.0, 1e-41, 3e38, np.nan, np.inf)))
    x, _, _, signs = draw(rows, block * count, extreme)
    signs = data.draw(st.sampled_from((signs, None) if dtype == "float32" else (signs,)))
    kept, wide = stored(x, dtype)
    _, y = rotate(op, dtype, block, 2, x=kept, signs=signs)
    assert same(y, PLAIN[op](wide, signs, block), dtype)


@pytest.mark.parametrize(("dtype", "block"), [("float32", 32), ("float32", 1024), ("bfloat16", 256), ("float16", 128)])
def test_fused_ops_round_nothing_before_the_rotation(dtype, block):
    features = 1024
    x, other, weight, signs = draw(3, features)
    (kept, wide), (kept_other, wide_other) = stored(x, dtype), stored(other, dtype)
    rows, none = {"signs": signs, "weight": weight}, np.zeros((3, features), np.float32)
    total, y = rotate("add_rms_norm_hadamard", dtype, block, x=kept, delta=kept_other, **rows)
    sums = rounded(wide + wide_other, dtype)
    assert np.array_equal(values(total, dtype), sums)
    kernel, problem = KERNELS["add_rms_norm"], Problem("add_rms_norm", "cpu", 4, features, features, bias="float32")
    norm = none.copy()
    run(kernel, problem, {"x": sums, "delta": none, "weight": weight, "eps": EPS, "total": none.copy(), "y": norm})
    assert same(y, reference.hadamard(norm, signs, block), dtype)
    _, alone = rotate("rms_norm_hadamard", dtype, block, x=total, **rows)
    assert np.array_equal(alone, y)
    np.testing.assert_allclose(norm, reference.rms_norm(sums, weight, EPS), rtol=1e-5, atol=1e-6)
    product = none.copy()
    problem = Problem("silu_mul_norm", "cpu", 4, features, features)
    operands = {"gate": wide, "up": wide_other, "weight": None, "eps": 0.0, "y": product}
    run(KERNELS["silu_mul_norm"], problem, operands)
    _, y = rotate("silu_mul_hadamard", dtype, block, gate=kept, up=kept_other, signs=signs)
    assert same(y, reference.hadamard(product, signs, block), dtype)
    np.testing.assert_allclose(product, reference.silu_mul(wide, wide_other), rtol=1e-5, atol=1e-6)


def test_a_row_is_the_same_alone_and_on_any_number_of_threads():
    x, other, weight, signs = draw(33, 1024)
    operands = {"weight": weight, "signs": signs}
    _, y = rotate("add_rms_norm_hadamard", "float32", 256, 2, x=x, delta=other, **operands)
    for row in (0, 16, 32):
        _, alone = rotate("add_rms_norm_hadamard", "float32", 256, x=x[[row]], delta=other[[row]], **operands)
        assert np.array_equal(alone[0], y[row])


@pytest.mark.parametrize("block", [1, 2, 8])
def test_small_blocks_are_refused_in_words(block):
    problem = Problem("hadamard", "cpu", 1, 8, 8, block=block)
    assert KERNELS["hadamard"].unsupported_reason(problem) == f"blocks of {block} are smaller than 16"
