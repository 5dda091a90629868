"""The gradients of RMSNorm by the Numba kernel against the formula in float64. No torch here."""

import numpy as np
import pytest
from halves import stored, values
from hypothesis import given, settings
from hypothesis import strategies as st
from numba_calls import run_norm_gradients

from bitnet_jit import reference
from bitnet_jit.kernels.numba.arrays import all_threads
from bitnet_jit.kernels.numba.rowwise.norm_gradients import KERNELS, MAX_PIECES
from bitnet_jit.problem import EPS, Problem, rows_bucket

(KERNEL,) = KERNELS
FEATURES = (1, 2, 3, 17, 31, 32, 33, 255, 256, 257, 600)
ROWS = (1, 2, 3, 17, 33, MAX_PIECES, MAX_PIECES + 1, 150)
ROUNDING = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}


def run(dy, x, weight, dtype, weight_dtype, threads=2, eps=EPS):
    rows, features = x.shape
    problem = Problem(
        KERNEL.op, "cpu", rows_bucket(rows), features, features, x_dtype=dtype, y_dtype=dtype, bias=weight_dtype
    )
    return run_norm_gradients(KERNEL, problem, dy, x, weight, eps, all_threads(threads))


def assert_near(gradients, dy, x, weight, dtypes):
    """Assert that gradients are right within the rounding of each term, of each sum, and of the result."""
    exact, magnitude = (reference.rms_norm_gradients_float64(dy, x, weight, EPS, a) for a in (False, True))
    terms = sum(x.shape) + 16
    for part, wanted, size, dtype in zip(gradients, exact, magnitude, dtypes, strict=True):
        bound = (terms * 2.0**-23 + ROUNDING[dtype]) * size + (2.0**-24 if dtype == "float16" else 1e-40)
        np.testing.assert_array_less(np.abs(values(part, dtype) - wanted), bound)


@pytest.mark.parametrize("weight_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ROUNDING)
@settings(max_examples=15)
@given(rows=st.sampled_from(ROWS), features=st.sampled_from(FEATURES), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_norm_gradients_are_the_formula(dtype, weight_dtype, rows, features, scale):
    rng = np.random.default_rng(rows * 1009 + features)
    dy, dy_wide = stored(rng.standard_normal((rows, features), dtype=np.float32), dtype)
    x, x_wide = stored(np.float32(scale) * rng.standard_normal((rows, features), dtype=np.float32), dtype)
    weight, weight_wide = stored(rng.standard_normal(features, dtype=np.float32), weight_dtype)
    gradients = run(dy, x, weight, dtype, weight_dtype)
    assert_near(gradients, dy_wide, x_wide, weight_wide, (dtype, weight_dtype))


def test_norm_gradients_of_rows_of_zeros_and_nan():
    rng = np.random.default_rng(0)
    dy, x = rng.standard_normal((2, 5, 40), dtype=np.float32)
    x[1], weight = 0, np.ones(40, np.float32)
    dx, dw = run(dy, x, weight, "float32", "float32")
    assert_near((dx, dw), dy, x, weight, ("float32", "float32"))
    x[3, 7] = np.nan
    broken, broken_dw = run(dy, x, weight, "float32", "float32")
    assert np.isnan(broken[3]).all()
    assert np.array_equal(np.delete(broken, 3, 0), np.delete(dx, 3, 0))
    assert np.isnan(broken_dw).all()


def test_norm_gradients_of_zeros_with_a_tiny_eps():
    zeros, weight = np.zeros((1, 40), np.float32), np.ones(40, np.float32)
    dx, dw = run(np.ones_like(zeros), zeros, weight, "float32", "float32", eps=1e-30)
    np.testing.assert_allclose(dx, 1e15, rtol=1e-6)
    assert not dw.any()


@pytest.mark.parametrize("rows", [3, 200])
def test_norm_gradients_are_the_same_on_any_number_of_threads(rows):
    rng = np.random.default_rng(0)
    dy, x = rng.standard_normal((2, rows, 700), dtype=np.float32)
    weight = rng.standard_normal(700, dtype=np.float32)
    wanted = run(dy, x, weight, "float32", "float32", 1)
    for threads in (2, 5):
        for gradient, expected in zip(run(dy, x, weight, "float32", "float32", threads), wanted, strict=True):
            np.testing.assert_array_equal(gradient, expected)
