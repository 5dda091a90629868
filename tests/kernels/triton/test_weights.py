"""The Triton kernels between float weights and packed ones, and from codes to floats, by the contract: bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_calls import LAYOUTS, ON_GPU, call, every, laid, max_examples, needs_device, problem_of

from bitnet_jit import reference
from bitnet_jit.kernels.triton.layout import I2_LAYOUTS
from bitnet_jit.kernels.triton.weights.quantize_weight import MAX_PARTS, parts_of

SIZES = st.tuples(st.sampled_from([1, 3, 17, 33, 65]), st.sampled_from([1, 3, 33, 63, 64, 65, 255, 257, 700]))
DTYPES = ["float32", "bfloat16", "float16"] if ON_GPU else ["float32"]  # the interpreter truncates to bfloat16
EXTREMES = st.sampled_from([None, 0.0, 1e-41, 127.0, -128.0, 6e4])
LAYOUT = st.sampled_from(I2_LAYOUTS)


def quantize_problem(shape, dtype="float32", layout=I2_LAYOUTS[0]):
    return problem_of("quantize_weight", (1, *shape), layout=layout, x_dtype=dtype, y_dtype="uint8", scale="tensor")


def floats_problem(shape, dtype="float32", scale="tensor", layout=I2_LAYOUTS[0]):
    return problem_of("dequantize_weight", (1, *shape), layout=layout, x_dtype="uint8", y_dtype=dtype, scale=scale)


def activation_problem(shape, dtype="float32"):
    return problem_of("dequantize_activation", (shape[0], shape[1], shape[1]), x_dtype="int8", y_dtype=dtype)


def codes_of(w_packed, shape, layout):
    """Return the codes (N, K) of a weight in a layout."""
    return LAYOUTS[layout].format.unpack(LAYOUTS[layout].to_canonical(w_packed, *shape), shape[1])


def check_quantized(kernel, w, dtype, layout, pick=0):
    problem = quantize_problem(w.shape, dtype, layout)
    configs = kernel.all_configs(problem)
    w_packed, w_scale = call(kernel, problem, configs[pick % len(configs)], w)
    w_q, wanted = reference.quantize_weight(w.float().numpy())
    assert w_scale == wanted
    assert np.array_equal(codes_of(w_packed, w.shape, layout), w_q)
    assert np.array_equal(w_packed, laid(w_q, layout))  # where there is no weight, too


@needs_device
@every(quantize_problem((4, 300)))
@max_examples
@given(shape=SIZES, dtype=st.sampled_from(DTYPES), layout=LAYOUT, extreme=EXTREMES, pick=st.integers(0, 99))
def test_every_kernel_quantizes_by_the_contract(kernel, shape, dtype, layout, extreme, pick):
    w = torch.from_numpy(np.random.default_rng(shape[0] * 1009 + shape[1]).standard_normal(shape, dtype=np.float32))
    if extreme is not None:
        w[1:] = extreme
    check_quantized(kernel, w.to(getattr(torch, dtype)), dtype, layout, pick)


@needs_device
@every(quantize_problem((4, 300)))
@pytest.mark.parametrize("layout", I2_LAYOUTS)
def test_a_weight_of_many_parts(kernel, layout):
    shape = (5001, 4099) if ON_GPU else (90, 411)
    parts, span = parts_of(quantize_problem(shape))
    assert 1 < parts <= MAX_PARTS
    assert (parts - 1) * span < shape[0] * shape[1] <= parts * span
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    check_quantized(kernel, w, "float32", layout)
    check_quantized(kernel, torch.stack([w, w], -1)[..., 0], "float32", layout)  # not contiguous


@needs_device
@every(quantize_problem((4, 300)))
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_shows_in_its_scale(kernel, broken):
    w = torch.ones(5, 33)
    w[4, 32] = broken
    _, w_scale = call(kernel, quantize_problem(w.shape), kernel.configs(quantize_problem(w.shape))[0], w)
    assert not np.isfinite(w_scale)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy in the interpreter, of infinity
@needs_device
@every(floats_problem((4, 300)))
@max_examples
@given(
    shape=SIZES,
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from(["tensor", "row"]),
    layout=LAYOUT,
    extreme=st.sampled_from([None, 0.0, np.nan, np.inf]),
    pick=st.integers(0, 99),
)
def test_weights_are_given_back(kernel, shape, dtype, scale, layout, extreme, pick):
    rng = np.random.default_rng(shape[0] * 31 + shape[1])
    w_q = rng.integers(-1, 2, shape, dtype=np.int8)
    w_scale = np.asarray(rng.random(shape[:1] if scale == "row" else (), dtype=np.float32))
    if extreme is not None:
        w_scale.reshape(-1)[0] = extreme
    problem = floats_problem(shape, dtype, scale, layout)
    configs = kernel.all_configs(problem)
    w = call(kernel, problem, configs[pick % len(configs)], laid(w_q, layout), w_scale)
    product = torch.from_numpy(w_q * (w_scale[:, None] if scale == "row" else w_scale))
    assert np.array_equal(w, product.to(getattr(torch, dtype)).float().numpy(), equal_nan=True)


@needs_device
@every(activation_problem((4, 300)))
@max_examples
@given(
    rows=st.sampled_from([1, 0, 3, 17]),
    features=st.sampled_from([1, 17, 300, 2049]),
    dtype=st.sampled_from(DTYPES),
    pick=st.integers(0, 99),
)
def test_activations_are_given_back(kernel, rows, features, dtype, pick):
    rng = np.random.default_rng(rows * 31 + features)
    x_q = rng.integers(-128, 128, (rows, features), dtype=np.int8)
    x_scale = rng.random(rows, dtype=np.float32)
    problem = activation_problem(x_q.shape, dtype)
    configs = kernel.all_configs(problem)
    x = call(kernel, problem, configs[pick % len(configs)], x_q, x_scale)
    product = torch.from_numpy(x_q * x_scale[:, None])
    assert np.array_equal(x, product.to(getattr(torch, dtype)).float().numpy())


def test_refusals_are_words():
    (quantize,) = [kernel for kernel in every(quantize_problem((4, 300))).args[1]]
    other = problem_of("quantize_weight", (1, 4, 300), layout="t5/planes")
    assert "writes the layouts i2/planes and i2/chunks" in (quantize.unsupported_reason(other) or "")
    (floats,) = [kernel for kernel in every(floats_problem((4, 300))).args[1]]
    assert "takes tensor and row scales" in (floats.unsupported_reason(floats_problem((4, 300), scale="group")) or "")
    assert "reads the layouts i2/planes and i2/chunks" in (
        floats.unsupported_reason(problem_of("dequantize_weight", (1, 4, 3))) or ""
    )
