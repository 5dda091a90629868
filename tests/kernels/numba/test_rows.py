"""Row-wise kernels of the Numba backend against the reference. No torch here."""

import numpy as np
import pytest
from halves import stored, values
from hypothesis import given, settings
from hypothesis import strategies as st
from numba_calls import rounded, run_add_norm, run_rows

from bitnet_jit import reference
from bitnet_jit.kernels.numba import BACKEND
from bitnet_jit.kernels.numba.arrays import all_threads
from bitnet_jit.kernels.numba.rowwise import norm
from bitnet_jit.problem import EPS, Problem, rows_bucket

FEATURES = (1, 2, 3, 15, 17, 31, 32, 33, 63, 64, 65, 100, 1001)
DTYPES = ("float32", "bfloat16", "float16")
KERNELS = {kernel.op: kernel for kernel in BACKEND.kernels() if kernel.op.endswith(("norm", "quantize", "activation"))}
QUICK = settings(max_examples=15)


def rows_of(draw, rows, features, dtype):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((rows, features)).astype(np.float32)
    for row in range(rows):
        kind = draw(st.sampled_from(["normal", "normal", "zeros", "denormal", "halves", "nan", "inf"]))
        if kind == "zeros":
            x[row] = 0
        elif kind == "denormal":
            x[row] *= 1e-40 if dtype != "float16" else 1e-6
        elif kind == "halves":
            x[row] = rng.integers(-255, 256, features) / 2
            x[row, 0] = 127
        elif kind in ("nan", "inf"):
            x[row, rng.integers(features)] = float(kind)
    return stored(x, dtype)


def run(op, dtype, x, up=None, weight=None, weight_dtype="float32", threads=1):
    rows, features = x.shape
    y_dtype = "int8" if "quantize" in op else dtype
    problem = Problem(
        op, "cpu", rows_bucket(rows), features, features, x_dtype=dtype, y_dtype=y_dtype, bias=weight_dtype
    )
    assert KERNELS[op].unsupported_reason(problem) is None
    return run_rows(KERNELS[op], problem, x, up, weight, EPS, all_threads(threads))


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_quantize_activation_is_exact(dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    x, wide = rows_of(data.draw, rows, features, dtype)
    x_q, x_scale = run("quantize_activation", dtype, x, threads=2)
    expected_q, expected_scale = reference.quantize_activation(wide)
    np.testing.assert_array_equal(x_q, expected_q)
    np.testing.assert_array_equal(x_scale, expected_scale)


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_rms_norm(dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    x, wide = rows_of(data.draw, rows, features, dtype)
    weight, weight_wide = stored(np.random.default_rng(features).random(features).astype(np.float32) + 0.5, dtype)
    y, _ = run("rms_norm", dtype, x, weight=weight, weight_dtype=dtype, threads=2)
    expected = reference.rms_norm_float64(wide, weight_wide, EPS)
    eps = {"float32": 4e-7, "bfloat16": 2.0**-8, "float16": 2.0**-10}[dtype]
    finite = np.isfinite(wide).all(1)
    assert not np.isfinite(y[~finite].astype(np.float64)).all(1).any() if dtype != "bfloat16" else True
    error = np.abs(values(y, dtype)[finite] - expected[finite])
    assert (error <= eps * np.abs(expected[finite]) + (6e-8 if dtype == "float16" else 1e-44)).all()


def assert_codes(x_q, x_scale, exact):
    """Assert that codes and scales of a fused norm are right where the row is finite, zeros and NaN where it is not."""
    finite = np.isfinite(exact).all(1)
    assert reference.codes_agree(x_q[finite], exact[finite]).all()
    absmax = np.maximum(np.abs(exact[finite]).max(1, initial=0), EPS)
    np.testing.assert_allclose(x_scale[finite], absmax / 127, rtol=1e-6)
    assert np.isnan(x_scale[~finite]).all()
    assert (x_q[~finite] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_rms_norm_quantize(dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    x, wide = rows_of(data.draw, rows, features, dtype)
    weight = np.random.default_rng(features).random(features).astype(np.float32) + 0.5
    x_q, x_scale = run("rms_norm_quantize", dtype, x, weight=weight, threads=2)
    exact = reference.rms_norm_float64(wide, weight, EPS)
    exact[~np.isfinite(wide).all(1)] = np.nan
    assert_codes(x_q, x_scale, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_add_rms_norm_quantize_is_a_rounded_sum_and_its_norm(dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    (x, wide), (delta, delta_wide) = (rows_of(data.draw, rows, features, dtype) for _ in range(2))
    weight = np.random.default_rng(features).random(features).astype(np.float32) + 0.5
    op = "add_rms_norm_quantize"
    problem = Problem(op, "cpu", rows_bucket(rows), features, features, x_dtype=dtype, y_dtype=dtype, bias="float32")
    total, *codes = run_add_norm(KERNELS[op], problem, x, delta, weight, EPS, all_threads(2))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(values(total, dtype), rounded(wide + delta_wide, dtype))
    for part, wanted in zip(codes, run("rms_norm_quantize", dtype, total, weight=weight), strict=True):
        np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_relu2_mul_norm_quantize(dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    gate, gate_wide = stored(rng.standard_normal((rows, features)).astype(np.float32) * 3, dtype)
    up, up_wide = stored(rng.standard_normal((rows, features)).astype(np.float32), dtype)
    weight = rng.random(features).astype(np.float32) + 0.5
    x_q, x_scale = run("relu2_mul_norm_quantize", dtype, gate, up, weight, threads=2)
    exact = reference.rms_norm_float64(reference.relu2_mul(gate_wide, up_wide), weight, EPS)
    assert_codes(x_q, x_scale, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_norm", [False, True])
@QUICK
@given(data=st.data())
def test_silu_mul_norm_quantize(with_norm, dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread = data.draw(st.sampled_from((0.1, 3.0, 60.0)))
    gate, gate_wide = stored(rng.standard_normal((rows, features)).astype(np.float32) * np.float32(spread), dtype)
    up, up_wide = stored(rng.standard_normal((rows, features)).astype(np.float32), dtype)
    weight = rng.random(features).astype(np.float32) + 0.5 if with_norm else None
    kind = "float32" if with_norm else ""
    x_q, x_scale = run("silu_mul_norm_quantize", dtype, gate, up, weight, weight_dtype=kind, threads=2)
    wide = gate_wide.astype(np.float64)
    exact = wide / (1 + np.exp(-wide)) * up_wide
    assert_codes(x_q, x_scale, exact if weight is None else reference.rms_norm_float64(exact, weight, EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["relu2", "silu", "silu without a norm"])
@QUICK
@given(data=st.data())
def test_gated_products_as_floats(kind, dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    (gate, gate_wide), (up, up_wide) = (rows_of(data.draw, rows, features, dtype) for _ in range(2))
    gate_wide, up_wide = gate_wide.astype(np.float64), up_wide.astype(np.float64)
    weight = np.random.default_rng(features).random(features).astype(np.float32) + 0.5
    weight, weight_dtype = (None, "") if "without" in kind else (weight, "float32")
    op = f"{kind.split()[0]}_mul_norm"
    y, _ = run(op, dtype, gate, up, weight, weight_dtype=weight_dtype, threads=2)
    with np.errstate(invalid="ignore", over="ignore"):
        silu = gate_wide / (1 + np.exp(-gate_wide))
        exact = (np.maximum(gate_wide, 0) ** 2 if op == "relu2_mul_norm" else silu) * up_wide
    finite = np.isfinite(exact).all(1)
    exact, wide = exact if weight is None else reference.rms_norm_float64(exact, weight, EPS), values(y, dtype)
    rtol = {"float32": 1e-6, "bfloat16": 2.0**-8, "float16": 2.0**-10}[dtype]
    atol = 6e-8 if dtype == "float16" else 1e-34  # below -88 silu is 0, as the exponential overflows
    np.testing.assert_allclose(wide[finite], exact[finite], rtol, atol)
    assert not np.isfinite(wide[~finite]).all(1).any()


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(data=st.data())
def test_add_rms_norm_is_a_rounded_sum_and_its_norm(dtype, data):
    rows, features = data.draw(st.sampled_from((0, 1, 3, 40))), data.draw(st.sampled_from(FEATURES))
    (x, wide), (delta, delta_wide) = (rows_of(data.draw, rows, features, dtype) for _ in range(2))
    weight = np.random.default_rng(features).random(features).astype(np.float32) + 0.5
    op = "add_rms_norm"
    problem = Problem(op, "cpu", rows_bucket(rows), features, features, x_dtype=dtype, y_dtype=dtype, bias="float32")
    total, y = run_add_norm(KERNELS[op], problem, x, delta, weight, EPS, all_threads(2))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(values(total, dtype), rounded(wide + delta_wide, dtype))
    np.testing.assert_array_equal(values(y, dtype), values(run("rms_norm", dtype, total, weight=weight)[0], dtype))


def test_silu_of_extreme_values():
    gate = np.array([[np.nan, 1], [np.inf, 1], [-np.inf, 1], [-200, 1], [200, 1], [0, -0.0]], np.float32)
    up = np.ones_like(gate)
    x_q, x_scale = run("silu_mul_norm_quantize", "float32", gate, up, weight_dtype="")
    with np.errstate(invalid="ignore"):
        expected_q, expected_scale = reference.silu_mul_norm_quantize(gate, up, None, 0.0)
    np.testing.assert_array_equal(x_q, expected_q)
    np.testing.assert_allclose(x_scale, expected_scale, rtol=1e-6)


@pytest.mark.parametrize("gate", [np.nan, np.inf, -np.inf, -3e38, -1000, -88.8, -88, -87.5, 88, 3e38, 0.0, 1e-41])
@pytest.mark.parametrize("name", ["silu_mul", "sigmoid_mul", "gelu_mul"])
def test_gates_of_extreme_values_as_floats(name, gate):
    gate = np.full((1, 17), gate, np.float32)
    h, _ = run(f"{name}_norm", "float32", gate, np.ones_like(gate), weight_dtype="")
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(h, getattr(reference, name)(gate, np.ones_like(gate)), rtol=1e-6, atol=1e-38)


def test_relu2_lets_nan_through_and_stops_minus_infinity():
    gate = np.array([[np.nan, 1, 1], [-np.inf, 2, 1]], np.float32)
    up, weight = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    x_q, x_scale = run("relu2_mul_norm_quantize", "float32", gate, up, weight)
    expected_q, expected_scale = reference.relu2_mul_norm_quantize(gate, up, weight, EPS)
    np.testing.assert_array_equal(x_q, expected_q)
    assert np.isnan(x_scale[0])
    np.testing.assert_allclose(x_scale[1], expected_scale[1], rtol=1e-6)


def test_a_row_does_not_depend_on_its_batch_or_threads():
    x = np.random.default_rng(3).standard_normal((50, 777)).astype(np.float32)
    weight = np.ones(777, np.float32)
    alone = run("rms_norm", "float32", x[:1].copy(), weight=weight)[0]
    for threads in (1, 2):
        together, _ = run("rms_norm", "float32", x, weight=weight, threads=threads)
        np.testing.assert_array_equal(together[:1], alone)


def test_every_op_with_two_inputs_has_a_gate_that_the_kernel_knows():
    assert {op for op, operands in norm.OPERANDS.items() if "gate" in operands} == norm.GATES.keys()
    assert set(norm.GATES.values()) <= {"relu2", "silu", "sigmoid", "gelu"}
