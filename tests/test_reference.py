"""The oracle against scalar arithmetic: each formula again in Python floats, rounded to float32 after every operation.

A product, quotient or sum of two float32 numbers in float64, then rounded to float32, is correctly rounded: 53 bits are
at least 2 * 24 + 2.
"""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bitnet_jit import reference

FINITE = st.floats(-1e6, 1e6, width=32)
SMALL = st.integers(1, 24)
EPS = 2.0**-23
UNDERFLOW = 1e-40  # what the roundings of subnormal numbers may add


def f32(value: float) -> float:
    """Return the nearest float32, as a Python float."""
    return struct.unpack("f", struct.pack("f", value))[0]


def matrices(rows=SMALL, columns=SMALL, elements=FINITE):
    return st.tuples(rows, columns).flatmap(lambda shape: arrays(np.float32, shape, elements=elements))


def scalar_codes(row, scale_factor):
    """Compute codes of one row by Python's round, which is half to even."""
    return [max(-128, min(127, round(f32(x * scale_factor)))) for x in row]


@st.composite
def layers(draw):
    """Draw codes and scales of a small layer: x_q, x_scale, w_q, bias."""
    rows, inputs, outputs = draw(st.integers(0, 5)), draw(SMALL), draw(SMALL)
    x_q = draw(arrays(np.int8, (rows, inputs), elements=st.integers(-128, 127)))
    w_q = draw(arrays(np.int8, (outputs, inputs), elements=st.integers(-1, 1)))
    x_scale = draw(arrays(np.float32, rows, elements=st.floats(2.0**-20, 2.0**10, width=32)))
    bias = draw(st.none() | arrays(np.float32, outputs, elements=FINITE))
    return x_q, x_scale, w_q, bias


@given(w=matrices())
def test_weight_scale_is_the_mean_magnitude_and_codes_round_half_to_even(w):
    w_q, w_scale = reference.quantize_weight(w)
    mean = math.fsum(abs(float(v)) for v in w.flat) / w.size
    assert w_scale.dtype == np.float32
    assert abs(float(w_scale) - max(f32(mean), f32(1e-5))) <= float(np.spacing(w_scale))
    expected = [[max(-1, min(1, round(f32(float(v) / float(w_scale))))) for v in row] for row in w]
    assert w_q.dtype == np.int8
    assert w_q.tolist() == expected


def test_weight_ties_round_to_even():
    w = np.array([[0.5, -0.5, 1.5, -1.5]], np.float32)  # mean 1: halves round to 0, and 1.5 to 2, which is clipped
    assert reference.quantize_weight(w)[0].tolist() == [[0, 0, 1, -1]]


def test_weight_of_zeros_keeps_the_least_scale():
    w_q, w_scale = reference.quantize_weight(np.zeros((3, 5)))
    assert w_scale == np.float32(1e-5)
    assert not w_q.any()


def test_weight_mean_is_summed_in_float64():
    w = np.full((1, 2**25 + 1), 1.0, np.float32)  # a float32 sum sticks at 2^24
    w[0, 0] = 3.0
    assert float(reference.quantize_weight(w)[1]) == f32((2**25 + 3) / (2**25 + 1))


@given(x=matrices(elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_activation_codes_and_scales(x):
    x_q, x_scale = reference.quantize_activation(x)
    for row, codes, scale in zip(x.tolist(), x_q.tolist(), x_scale.tolist(), strict=True):
        absmax = max(f32(1e-5), *(abs(v) for v in row))
        assert scale == f32(absmax / 127)
        assert codes == scalar_codes(row, f32(127 / absmax))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_and_touches_no_other(bad):
    x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5)
    clean_q, clean_scale = reference.quantize_activation(x)
    x[1, 2] = bad
    x_q, x_scale = reference.quantize_activation(x)
    assert not x_q[1].any()
    assert np.isnan(x_scale[1])
    assert np.array_equal(x_q[[0, 2]], clean_q[[0, 2]])
    assert np.array_equal(x_scale[[0, 2]], clean_scale[[0, 2]])
    y = reference.bit_linear(x, np.ones((4, 5), np.int8), 0.5, bias=np.zeros(4))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


def test_denormals_and_zeros_become_zero_codes():
    x = np.array([[0.0, -0.0, 1e-44, -1e-40]], np.float32)
    x_q, x_scale = reference.quantize_activation(x)
    assert not x_q.any()
    assert x_scale.tolist() == [f32(f32(1e-5) / 127)]


def test_half_types_are_widened_first():
    x = np.array([[0.1, -60000.0]], np.float16)
    assert np.array_equal(reference.quantize_activation(x)[1], reference.quantize_activation(x.astype(np.float32))[1])


@pytest.mark.parametrize("code", [127, -128])
@pytest.mark.parametrize("weight", [1, -1])
def test_matmul_is_exact_at_the_largest_sums(code, weight):
    in_features = 2**18
    acc = reference.ternary_matmul(np.full((1, in_features), code, np.int8), np.full((1, in_features), weight, np.int8))
    assert acc.dtype == np.int32
    assert acc.tolist() == [[code * weight * in_features]]


@given(layer=layers(), w_scale=st.floats(0, 10, width=32))
def test_linear_rounds_after_every_operation(layer, w_scale):
    x_q, x_scale, w_q, bias = layer
    y = reference.quantized_linear(x_q, x_scale, w_q, w_scale, bias)
    expected = np.zeros((len(x_q), len(w_q)))
    for m, n in np.ndindex(*expected.shape):
        acc = sum(int(a) * int(b) for a, b in zip(x_q[m], w_q[n], strict=True))
        product = f32(f32(acc) * f32(float(x_scale[m]) * w_scale))
        expected[m, n] = product if bias is None else f32(product + float(bias[n]))
    assert y.dtype == np.float32
    assert np.array_equal(y, expected)


@given(layer=layers(), w_scale=st.floats(2.0**-10, 10, width=32))
def test_row_scales_that_agree_are_a_tensor_scale(layer, w_scale):
    x_q, x_scale, w_q, bias = layer
    rows = np.full(len(w_q), w_scale, np.float32)
    expected = reference.quantized_linear(x_q, x_scale, w_q, w_scale, bias)
    assert np.array_equal(reference.quantized_linear(x_q, x_scale, w_q, rows, bias), expected)


@given(layer=layers(), group_size=st.integers(1, 30), data=st.data())
def test_group_scales_stay_within_the_bound_of_their_sum(layer, group_size, data):
    x_q, x_scale, w_q, bias = layer
    groups = -(-w_q.shape[1] // group_size)
    w_scale = data.draw(arrays(np.float32, (len(w_q), groups), elements=st.floats(0, 10, width=32)))
    y = reference.quantized_linear(x_q, x_scale, w_q, w_scale, bias, group_size)
    x = x_q * x_scale[:, None].astype(np.float64)
    group = np.arange(w_q.shape[1]) // group_size
    w = w_q * w_scale.astype(np.float64)[:, group]
    offset = np.zeros(len(w)) if bias is None else bias.astype(np.float64)
    magnitude = np.abs(x) @ np.abs(w).T + np.abs(offset)
    assert (np.abs(y - (x @ w.T + offset)) <= (groups + 4) * EPS * magnitude + UNDERFLOW).all()


@given(layer=layers(), data=st.data())
def test_a_row_depends_on_nothing_but_itself(layer, data):
    _, _, w_q, bias = layer
    x = data.draw(matrices(rows=st.integers(1, 6), columns=st.just(w_q.shape[1])))
    y = reference.bit_linear(x, w_q, 0.03, bias)
    for m in range(len(x)):
        assert np.array_equal(reference.bit_linear(x[m : m + 1], w_q, 0.03, bias)[0], y[m])


@given(layer=layers(), data=st.data())
def test_weight_only_bound_holds_for_float32_sums_in_any_order(layer, data):
    _, _, w_q, bias = layer
    x = data.draw(matrices(rows=st.integers(1, 3), columns=st.just(w_q.shape[1])))
    exact, magnitude = reference.bit_linear_a16_float64(x, w_q, 0.5, bias)
    order = data.draw(st.permutations(range(w_q.shape[1])))
    y = np.zeros((len(x), len(w_q)), np.float32)
    for k in order:
        y += x[:, k : k + 1] * w_q[None, :, k]
    y = y * np.float32(0.5) if bias is None else y * np.float32(0.5) + bias
    assert (np.abs(y - exact) <= (len(order) + 2) * EPS * magnitude + UNDERFLOW).all()


def test_scales_of_every_layout_expand_to_the_weight():
    w_scale = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert reference.expand_scale(w_scale, (2, 5), 3).tolist() == [[1, 1, 1, 2, 2], [3, 3, 3, 4, 4]]
    assert reference.expand_scale(w_scale[0], (2, 5), 0).tolist() == [[1], [2]]
    assert reference.expand_scale(7.0, (2, 5), 0).tolist() == 7.0


@given(x=matrices(), eps=st.sampled_from([1e-5, 1e-6, 1e-3]), data=st.data())
def test_rms_norm_is_near_its_float64_twin(x, eps, data):
    weight = data.draw(arrays(np.float32, x.shape[1], elements=st.floats(-4, 4, width=32)))
    y, exact = reference.rms_norm(x, weight, eps), reference.rms_norm_float64(x, weight, eps)
    for row, got in zip(x.tolist(), exact.tolist(), strict=True):
        root = math.sqrt(math.fsum(v * v for v in row) / len(row) + f32(eps))
        assert got == pytest.approx([v / root * w for v, w in zip(row, weight.tolist(), strict=True)], rel=1e-12)
    assert y.dtype == np.float32
    assert (np.abs(y - exact) <= (x.shape[1] + 8) * EPS * np.abs(exact) + UNDERFLOW).all()


@given(x=matrices(elements=st.floats(-100, 100, width=32)))
def test_fused_norm_codes_agree_with_float64(x):
    weight = np.linspace(0.5, 1.5, x.shape[1], dtype=np.float32)
    x_q, x_scale = reference.rms_norm_quantize(x, weight, 1e-5)
    exact = reference.rms_norm_float64(x, weight, 1e-5)
    assert reference.codes_agree(x_q, exact).all()
    absmax = np.maximum(np.abs(exact).max(axis=1), 1e-5)
    assert x_scale == pytest.approx(absmax / 127, rel=1e-5)


def test_codes_agree_allows_one_off_only_at_a_half_integer():
    y = np.array([[127.0, 10.5004, 10.3, -20.0]])
    assert reference.codes_agree(np.array([[127, 10, 10, -20]], np.int8), y).all()
    assert reference.codes_agree(np.array([[127, 11, 11, -21]], np.int8), y).tolist() == [[True, True, False, False]]
    assert reference.codes_agree(np.array([[126, 12, 9, -19]], np.int8), y).tolist() == [[False] * 4]


@given(x=matrices(elements=st.floats(-300, 300, width=16)), data=st.data())
def test_feed_forward_middle_is_its_parts(x, data):
    gate = x.astype(np.float16)
    up = data.draw(arrays(np.float32, x.shape, elements=st.floats(-10, 10, width=32)))
    product = reference.relu2_mul(gate, up)
    expected = np.zeros(x.shape, np.float32)
    for at in np.ndindex(*x.shape):
        expected[at] = f32(f32(max(float(x[at]), 0.0) ** 2) * float(up[at]))
    assert np.array_equal(product, expected)
    weight = np.ones(x.shape[1], np.float32)
    assert np.array_equal(reference.relu2_mul_norm(gate, up, weight, 1e-5), reference.rms_norm(expected, weight, 1e-5))
    x_q, x_scale = reference.relu2_mul_norm_quantize(gate, up, weight, 1e-5)
    same_q, same_scale = reference.rms_norm_quantize(expected, weight, 1e-5)
    assert np.array_equal(x_q, same_q)
    assert np.array_equal(x_scale, same_scale)


def test_a_nan_gate_is_not_swallowed():
    assert np.isnan(reference.relu2_mul([[np.nan, -1.0]], [[1.0, 1.0]])[0, 0])


def test_no_rows_give_no_rows():
    w_q = np.ones((3, 5), np.int8)
    assert reference.bit_linear(np.zeros((0, 5)), w_q, 1.0).shape == (0, 3)
    assert reference.rms_norm(np.zeros((0, 5)), np.ones(5), 1e-5).shape == (0, 5)
    assert reference.quantize_activation(np.zeros((2, 0)))[0].shape == (2, 0)
