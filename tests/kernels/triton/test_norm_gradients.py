"""The gradients of RMSNorm by the Triton kernels against the formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_calls import ON_GPU, call, every, max_examples, needs_device, problem_of

from bitnet_jit import reference
from bitnet_jit.kernels.triton.rowwise.norm_gradients import MAX_FEATURES, unsupported_reason

EPS = 1e-5
SHAPES = st.tuples(st.sampled_from([1, 0, 3, 17, 33, 600]), st.sampled_from([1, 3, 17, 33, 255, 256, 257, 2560]))
ROUNDING = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}
DTYPES = list(ROUNDING) if ON_GPU else ["float32"]  # the interpreter truncates to bfloat16


def gradients_problem(rows, features, dtype="float32", weight_dtype="float32"):
    shape = (rows, features, features)
    return problem_of("rms_norm_gradients", shape, x_dtype=dtype, y_dtype=dtype, bias=weight_dtype)


EVERY = every(gradients_problem(4, 300))


def draw(shape, dtype, weight_dtype="float32"):
    """Draw dy (M, K), x (M, K), weight (K,)."""
    rng = np.random.default_rng(shape[0] * 1009 + shape[1])
    dy, x = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(getattr(torch, dtype)) for _ in "dx")
    weight = torch.from_numpy(rng.standard_normal(shape[1], dtype=np.float32))
    return dy, x, weight.to(getattr(torch, weight_dtype))


def assert_near(gradients, dy, x, weight, dtypes):
    wide = [tensor.float().numpy() for tensor in (dy, x, weight)]
    exact, magnitude = (reference.rms_norm_gradients_float64(*wide, EPS, a) for a in (False, True))
    terms = sum(x.shape) + 16
    for part, wanted, size, dtype in zip(gradients, exact, magnitude, dtypes, strict=True):
        bound = (terms * 2.0**-23 + ROUNDING[dtype]) * size + (2.0**-24 if dtype == "float16" else 1e-40)
        assert (np.abs(part - wanted) <= bound).all()


@needs_device
@EVERY
@max_examples
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), weight_dtype=st.sampled_from(DTYPES), pick=st.integers(0, 99))
def test_every_config_is_the_formula(kernel, shape, dtype, weight_dtype, pick):
    if not shape[0]:
        return  # no row: nothing is launched, see ops
    problem = gradients_problem(*shape, dtype, weight_dtype)
    configs = kernel.all_configs(problem)
    dy, x, weight = draw(shape, dtype, weight_dtype)
    assert_near(
        call(kernel, problem, configs[pick % len(configs)], dy, x, weight, EPS), dy, x, weight, (dtype, weight_dtype)
    )


@needs_device
@EVERY
def test_a_row_with_nan_and_tensors_with_gaps(kernel):
    dy, x, weight = draw((6, 300), "float32")
    problem = gradients_problem(6, 300)
    config = kernel.configs(problem)[0]
    wanted = call(kernel, problem, config, dy, x, weight, EPS)
    gaps = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in (dy, x, weight)]
    for gradient, expected in zip(call(kernel, problem, config, *gaps, EPS), wanted, strict=True):
        assert np.array_equal(gradient, expected)
    x[2, 7] = torch.nan
    dx, dw = call(kernel, problem, config, dy, x, weight, EPS)
    assert np.isnan(dx[2]).all()
    assert np.isnan(dw).all()
    assert np.array_equal(np.delete(dx, 2, 0), np.delete(wanted[0], 2, 0))


@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
@EVERY
@pytest.mark.parametrize("shape", [(4096, 2560), (1000, 6912), (3, 16384)])
def test_sizes_of_models(kernel, shape):
    problem = gradients_problem(*shape, "bfloat16")
    dy, x, weight = draw(shape, "bfloat16")
    for config in kernel.configs(problem):
        assert_near(call(kernel, problem, config, dy, x, weight, EPS), dy, x, weight, ("bfloat16", "float32"))


def test_rows_that_no_program_holds_are_refused_in_words():
    assert unsupported_reason(gradients_problem(4, MAX_FEATURES)) is None
    assert "up to 16384 features" in unsupported_reason(gradients_problem(4, MAX_FEATURES + 1))
