"""The plain torch kernels of row-wise ops: equal to the reference where it is exact, within its bound elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bitnet_jit import reference
from bitnet_jit.kernels.torch.norm import norm_rows, quantize_rows

VALUES = st.floats(-1e6, 1e6, width=32)
ROWS = st.tuples(st.integers(0, 5), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=VALUES)
)


@given(x=ROWS)
def test_codes_and_scales_equal_the_reference(x):
    x_q, x_scale = quantize_rows(torch.from_numpy(x))
    expected_q, expected_scale = reference.quantize_activation(x)
    assert np.array_equal(x_q.numpy(), expected_q)
    assert np.array_equal(x_scale.numpy(), expected_scale)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_touches_no_other(bad):
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    x[1, 3] = bad
    x_q, x_scale = quantize_rows(torch.from_numpy(x))
    expected_q, expected_scale = reference.quantize_activation(x)
    assert np.array_equal(x_q.numpy(), expected_q)
    assert np.array_equal(x_scale.numpy(), expected_scale, equal_nan=True)


@given(x=ROWS)
def test_norms_are_near_float64(x):
    weight = np.linspace(-2, 2, x.shape[1], dtype=np.float32)
    y = norm_rows(torch.from_numpy(x), torch.from_numpy(weight), 1e-5).numpy()
    exact = reference.rms_norm_float64(x, weight, 1e-5)
    assert (np.abs(y - exact) <= (x.shape[1] + 8) * 2.0**-23 * np.abs(exact) + 1e-40).all()
