"""Row-wise kernels of MLX: equal to the reference where it is exact, within its bound elsewhere."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_draws import floats
from mlx_calls import run_rows, to_array
from numba_calls import rounded

from bitnet_jit import reference
from bitnet_jit.problem import Problem

SHAPES = st.tuples(st.sampled_from((0, 1, 3, 17)), st.sampled_from((1, 3, 17, 33, 131)))
DTYPES = st.sampled_from(("float32", "float16", "bfloat16"))
STEP = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
GATES = ("relu2_mul", "silu_mul", "sigmoid_mul", "gelu_mul")
EPS = 1e-5


def problem_of(op, features, dtype="float32", block=0):
    """The problem of a call."""
    return Problem(op, "mlx", 1, features, features, x_dtype=dtype, y_dtype=dtype, block=block)


def weight_of(features):
    """Weights of a norm, of either sign."""
    return np.linspace(-2, 2, features, dtype=np.float32)


@given(data=st.data(), shape=SHAPES, dtype=DTYPES)
def test_codes_and_scales_equal_the_reference(data, shape, dtype):
    x, wide = floats(data.draw, *shape, dtype)
    codes, scale = run_rows(
        "mlx.plain_quantize_activation", problem_of("quantize_activation", shape[1]), to_array(x, dtype)
    )
    expected, expected_scale = reference.quantize_activation(wide)
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(scale, expected_scale)


def near(y, exact, features, dtype, slack=8):
    """Whether y is within the roundings of a sum of features, or beyond what its dtype holds."""
    largest = 65504 if dtype == "float16" else 3e38
    bound = ((features + slack) * 2.0**-23 + STEP[dtype]) * np.abs(exact) + 1e-7
    with np.errstate(invalid="ignore"):
        return (np.abs(y.astype(np.float64) - exact) <= bound) | (np.abs(exact) > largest) | ~np.isfinite(exact)


@given(shape=SHAPES, dtype=DTYPES, scale=st.sampled_from((1e-3, 1.0, 100.0)), seed=st.integers(0, 2**32 - 1))
def test_norms_and_sums_are_near_float64(shape, dtype, scale, seed):
    rng = np.random.default_rng(seed)
    x, delta = (stored_as(rng.standard_normal(shape) * scale, dtype) for _ in range(2))
    weight = weight_of(shape[1])
    x[-1:, :1] = np.nan
    (y,) = run_rows("mlx.plain_rms_norm", problem_of("rms_norm", shape[1]), array(x, dtype), mx.array(weight), EPS)
    exact = reference.rms_norm_float64(x, weight, EPS)
    assert near(y, exact, shape[1], dtype)[:-1].all()
    assert np.isnan(y[-1:]).all()
    arrays = array(x, dtype), array(delta, dtype), mx.array(weight), EPS
    total, z = run_rows("mlx.plain_add_rms_norm", problem_of("add_rms_norm", shape[1]), *arrays)
    np.testing.assert_array_equal(total.astype(np.float32), rounded(x + delta, dtype))
    assert near(z, reference.rms_norm_float64(total, weight, EPS), shape[1], dtype)[:-1].all()
    again, codes, code_scale = run_rows(
        "mlx.plain_add_rms_norm_quantize", problem_of("add_rms_norm_quantize", shape[1]), *arrays
    )
    np.testing.assert_array_equal(again, total)
    check_codes(codes[:-1], code_scale[:-1], reference.rms_norm_float64(total, weight, EPS)[:-1])
    assert not codes[-1:].any()
    assert np.isnan(code_scale[-1:]).all()
    codes, code_scale = run_rows(
        "mlx.plain_rms_norm_quantize", problem_of("rms_norm_quantize", shape[1]), arrays[0], mx.array(weight), EPS
    )
    check_codes(codes[:-1], code_scale[:-1], exact[:-1])


def stored_as(x, dtype):
    """Numbers that a dtype holds, as float32."""
    return rounded(x.astype(np.float32), dtype)


def array(x, dtype):
    """An array of a dtype, of numbers that it holds."""
    return mx.array(x).astype(getattr(mx, dtype))


def check_codes(codes, scale, exact):
    """Compare codes and scales of rows with exact ones."""
    assert reference.codes_agree(codes, exact).all()
    expected = np.maximum(np.abs(exact).max(1, initial=0), EPS) / 127
    np.testing.assert_allclose(scale, expected, rtol=1e-4)


@pytest.mark.parametrize("gate", GATES)
@given(shape=SHAPES, dtype=DTYPES, normed=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_gated_products_are_near_the_reference(gate, shape, dtype, normed, seed):
    rng = np.random.default_rng(seed)
    x, up = (stored_as(rng.standard_normal(shape) * 3, dtype) for _ in range(2))
    x[:, :1] = rng.choice(np.float32([0, -100, 100, 1e-30, -1e-30]), (shape[0], 1))
    x = stored_as(x, dtype)
    weight = weight_of(shape[1]) if normed or gate == "relu2_mul" else None
    arrays = array(x, dtype), array(up, dtype), to_array(weight), EPS
    (y,) = run_rows(f"mlx.plain_{gate}_norm", problem_of(f"{gate}_norm", shape[1], dtype), *arrays)
    product = getattr(reference, gate)(x, up).astype(np.float64)
    exact = product if weight is None else reference.rms_norm_float64(product, weight, EPS)
    assert near(y, exact, shape[1], dtype, 64).all()
    if gate in ("relu2_mul", "silu_mul"):
        op = f"{gate}_norm_quantize"
        check_codes(*run_rows(f"mlx.plain_{op}", problem_of(op, shape[1], dtype), *arrays), exact)


@given(shape=SHAPES, dtype=DTYPES, seed=st.integers(0, 2**32 - 1))
def test_gradients_of_norms_stay_in_their_bound(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    dy, x = (stored_as(rng.standard_normal(shape), dtype) for _ in range(2))
    weight = weight_of(shape[1])
    arrays = array(dy, dtype), array(x, dtype), mx.array(weight), EPS
    dx, dw = run_rows("mlx.plain_rms_norm_gradients", problem_of("rms_norm_gradients", shape[1], dtype), *arrays)
    exact = reference.rms_norm_gradients_float64(dy, x, weight, EPS)
    sizes = reference.rms_norm_gradients_float64(dy, x, weight, EPS, absolute=True)
    for actual, right, size in zip((dx, dw), exact, sizes, strict=True):
        assert actual.shape == right.shape
        step = STEP[dtype] if actual is dx else 0
        assert (np.abs(actual - right) <= (sum(shape) + 16) * 2.0**-23 * size + step * np.abs(right) + 1e-7).all()


@pytest.mark.parametrize("op", ["hadamard", "inverse_hadamard"])
@given(
    rows=st.sampled_from((0, 1, 3, 17)),
    blocks=st.sampled_from((1, 3)),
    block=st.sampled_from((1, 2, 16, 128)),
    dtype=DTYPES,
    signed=st.booleans(),
    data=st.data(),
)
def test_rotations_are_the_contract_bit_for_bit(op, rows, blocks, block, dtype, signed, data):
    x, wide = floats(data.draw, rows, blocks * block, dtype)
    signs = np.where(np.arange(blocks * block) % 3, 1, -1).astype(np.float32) if signed else None
    (y,) = run_rows(
        f"mlx.plain_{op}", problem_of(op, blocks * block, dtype, block), to_array(x, dtype), to_array(signs)
    )
    expected = rounded(getattr(reference, op)(wide, signs, block), dtype)
    np.testing.assert_array_equal(y.astype(np.float32), expected)
