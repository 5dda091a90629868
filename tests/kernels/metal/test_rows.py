"""The row kernels for Metal by the contract, in the host harness: quantization bit for bit, norms as sums agree."""

from dataclasses import replace

import numpy as np
import pytest
from halves import stored, values
from hypothesis import given
from hypothesis import strategies as st
from metal_host.host import find_compiler
from metal_host.run_bound import run_bound

from bitnet_jit import reference
from bitnet_jit.kernels.metal.rowwise import rows
from bitnet_jit.problem import Problem, rows_bucket

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="clang++ is not installed")

EPS = 1e-5
ADDS = ("add_rms_norm", "add_rms_norm_quantize")
GATES = {
    f"{name}_mul_norm{end}": product
    for name, product, ends in (
        ("relu2", reference.relu2_mul, ("", "_quantize")),
        ("silu", reference.silu_mul, ("", "_quantize")),
        ("sigmoid", reference.sigmoid_mul, ("",)),
        ("gelu", reference.gelu_mul, ("",)),
    )
    for end in ends
}
OPTIONAL = ("silu_mul_norm", "silu_mul_norm_quantize", "sigmoid_mul_norm", "gelu_mul_norm")
DTYPES = ("float32", "float16", "bfloat16")
STEPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
CASES = [(op, dtype) for place, op in enumerate(rows.OPS) for dtype in ("float32", DTYPES[1 + place % 2])]
FEATURES = (1, 3, 31, 257, 263)  # of one simdgroup and of two: each is compiled
ROWS = st.sampled_from([1, 2, 3, 17])
EXTREMES = st.sampled_from([None, 0.0, 1e-41, 127.0, np.nan, np.inf, -np.inf, -3e38, 6e4])


def problem_of(op, shape, x_dtype="float32", weight="float32"):
    count, features = shape
    bias = "" if op == "quantize_activation" else weight
    return Problem(op, "mlx", rows_bucket(count), features, features, x_dtype=x_dtype, bias=bias)


def draw(shape, extreme, x_dtype, weight_dtype="float32"):
    """Draw x (M, K), another one and a weight (K,) as stored; one row of x, but for its first number, is extreme."""
    rng = np.random.default_rng(shape[0] * 1009 + shape[1])
    x, other = rng.standard_normal((2, *shape), dtype=np.float32)
    if extreme is not None:
        x[shape[0] // 2, 1:] = extreme
    with np.errstate(invalid="ignore"):
        tensors = stored(x, x_dtype), stored(other, x_dtype)
    return *tensors, stored(rng.standard_normal(shape[1], dtype=np.float32), weight_dtype)


def run(op, problem, x, other, weight, seed=0):
    """Return the outputs of an op for tensors as stored, which were poisoned before."""
    kind, codes = rows.OPS[op]
    count, features = x.shape
    made = {"x_q": ((count, features), "int8"), "x_scale": ((count,), "float32")}
    outputs = {"total": ((count, features), problem.x_dtype)} if kind.total else {}
    outputs |= made if codes else {"y": ((count, features), problem.x_dtype)}
    arguments = {kind.x: x, kind.other: other, "weight": weight, "eps": EPS}
    result = run_bound(rows.bind(problem, None), count, {k: v for k, v in arguments.items() if k}, outputs, seed)
    return tuple(result[name] for name in outputs)


def rounded(x, dtype):
    """Return float32 as the nearest numbers of a dtype."""
    import torch  # whose bfloat16 NumPy does not know

    return torch.from_numpy(np.ascontiguousarray(x)).to(getattr(torch, dtype)).float().numpy()


def values_of(op, x, other, x_dtype):
    """Return what rows are made of, in float32."""
    with np.errstate(invalid="ignore", over="ignore"):
        if op in ADDS:
            return rounded(x + other, x_dtype)
        return GATES[op](x, other) if op in GATES else x


def check_floats(y, wanted, dtype):
    """Compare floats that are rounded once, from values that may differ in their last bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        largest = {"float32": 3.4e38, "float16": 65504.0, "bfloat16": 3.38e38}[dtype]
        near = np.abs(wanted) < largest * 0.999
        assert np.array_equal(np.isnan(y), np.isnan(wanted))
        np.testing.assert_allclose(y[near], wanted[near], rtol=1e-5 + STEPS[dtype], atol=1e-7)
        assert (np.abs(y[~near & ~np.isnan(wanted)]) >= largest * 0.99).all()


def check_codes(x_q, x_scale, exact, wanted):
    """Check codes against exact values; where float32 overflows on the way there, against the reference."""
    np.testing.assert_allclose(x_scale, wanted[1], rtol=1e-5)
    with np.errstate(invalid="ignore"):
        overflowed = ~np.isfinite(wanted[1]) | (np.abs(exact).max(1, initial=0) > 2e5 * wanted[1])
    assert reference.codes_agree(x_q[~overflowed], exact[~overflowed]).all()
    assert np.array_equal(x_q[overflowed], wanted[0][overflowed])


def check(op, x_dtype, count, features, extreme, has_norm=True):
    (x, wide), (other, wide_other), (weight, wide_weight) = draw((count, features), extreme, x_dtype)
    problem = replace(problem_of(op, (count, features), x_dtype), **({} if has_norm else {"bias": ""}))
    result = run(op, problem, x, other, weight if has_norm else None, seed=features)
    made = values_of(op, wide, wide_other, x_dtype)
    if rows.OPS[op][0].total:
        assert np.array_equal(values(result[0], x_dtype), made, equal_nan=True)
        result = result[1:]
    has_norm = has_norm and op != "quantize_activation"
    wanted = reference.rms_norm(made, wide_weight, EPS) if has_norm else made
    if not rows.OPS[op][1]:
        check_floats(values(result[0], x_dtype), wanted, x_dtype)
    elif op == "quantize_activation":
        for part, right in zip(result, reference.quantize_activation(wide), strict=True):
            assert np.array_equal(part, right, equal_nan=True)
    else:
        exact = reference.rms_norm_float64(made, wide_weight, EPS) if has_norm else made.astype(np.float64)
        check_codes(*result, exact, reference.quantize_activation(wanted))


@pytest.mark.parametrize(("op", "x_dtype"), CASES)
@given(count=ROWS, features=st.sampled_from(FEATURES), extreme=EXTREMES)
def test_every_op_is_the_contract(op, x_dtype, count, features, extreme):
    check(op, x_dtype, count, features, extreme)


@pytest.mark.parametrize("op", OPTIONAL)
@given(count=ROWS, features=st.sampled_from(FEATURES), extreme=EXTREMES)
def test_gates_without_a_norm(op, count, features, extreme):
    check(op, "float16", count, features, extreme, has_norm=False)


@pytest.mark.parametrize("op", ["quantize_activation", "add_rms_norm_quantize", "gelu_mul_norm"])
def test_rows_that_registers_do_not_hold(op):
    assert rows.shares(20500)[1] == 0
    check(op, "float16", 2, 20500, 6e4)


@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_a_weight_has_a_dtype_that_is_not_the_inputs(weight_dtype):
    (x, wide), _, (weight, wide_weight) = draw((3, 33), None, "bfloat16", weight_dtype)
    (y,) = run("rms_norm", problem_of("rms_norm", (3, 33), "bfloat16", weight_dtype), x, None, weight)
    check_floats(values(y, "bfloat16"), reference.rms_norm(wide, wide_weight, EPS), "bfloat16")


@pytest.mark.parametrize("op", ["rms_norm_quantize", "add_rms_norm", "silu_mul_norm_quantize"])
@given(seed=st.integers(1, 2**32 - 1))
def test_rows_have_the_same_bits_in_any_order_and_beside_any_rows(op, seed):
    (x, _), (other, _), (weight, _) = draw((5, 600), None, "float16")
    wanted = run(op, problem_of(op, (5, 600), "float16"), x, other, weight)
    result = run(op, problem_of(op, (2, 600), "float16"), x[2:4], other[2:4], weight, seed)
    assert all(np.array_equal(part, whole[2:4]) for part, whole in zip(result, wanted, strict=True))


def test_the_sum_of_a_row_depends_on_its_features_alone():
    for op in ("rms_norm", "silu_mul_norm_quantize"):
        one, many = (rows.bind(problem_of(op, (count, 2560)), None).launches(count)[0] for count in (1, 4096))
        assert (one.constants, one.threads) == (many.constants, many.threads)
