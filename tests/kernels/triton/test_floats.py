"""The Triton kernels whose sums are floats: float activations, group scales, the input's gradient; within bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_calls import ON_GPU, call, every, laid, max_examples, needs_device, problem_of

from bitnet_jit import reference
from bitnet_jit.kernels.triton.layout import I2_LAYOUTS

EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # relative error of one rounding
DTYPES = ["float32", "bfloat16", "float16"] if ON_GPU else ["float32"]  # the interpreter truncates to bfloat16
GROUP_SIZE = 128
ROWS = st.sampled_from([1, 0, 2, 3, 5, 17, 33, 70])
FEW_ROWS = st.sampled_from([1, 0, 2, 3, 5, 8, 16])
MANY_ROWS = st.sampled_from([128, 131, 257])  # of kernels that take no fewer
FEATURES = st.tuples(st.sampled_from([1, 3, 17, 64, 131]), st.sampled_from([1, 3, 33, 256, 257, 320, 700, 1040]))
SCALES = ("tensor", "row", "group")


def float_problem(op, shape, scale, activation="", x_dtype="float32", bias=False, layout="i2/planes"):
    group_size = GROUP_SIZE if scale == "group" else 0
    x = x_dtype if op != "quantized_linear" else "int8"
    return problem_of(
        op,
        shape,
        layout=layout,
        activation=activation,
        x_dtype=x,
        y_dtype=x_dtype,
        scale=scale,
        group_size=group_size,
        bias="float32" if bias else "",
    )


KINDS = [("i2/planes", scale) for scale in SCALES] + [("t5/planes", "tensor"), ("t5/planes", "row")]
A16 = every(
    *(float_problem("bit_linear", (rows, 8, 300), scale, "a16", "float16") for scale in SCALES for rows in (4, 200))
)
GROUPS = every(*(float_problem(op, (4, 8, 300), "group", "a8") for op in ("bit_linear", "quantized_linear")))
INPUT_GRAD = every(float_problem("bit_linear_input_grad", (4, 8, 300), "row"))


def draw(shape, scale, dtype):
    """Draw x (M, K) of a dtype, w_q (N, K), w_scale, bias (N,)."""
    rows, out_features, in_features = shape
    rng = np.random.default_rng(rows * 10007 + out_features * 101 + in_features)
    x = torch.from_numpy(rng.standard_normal((rows, in_features), dtype=np.float32)).to(getattr(torch, dtype))
    w_q = rng.integers(-1, 2, (out_features, in_features), dtype=np.int8)
    w_shape = {"tensor": (), "row": (out_features,), "group": (out_features, -(-in_features // GROUP_SIZE))}[scale]
    w_scale = np.asarray(rng.random(w_shape, dtype=np.float32) + np.float32(0.01), np.float32)
    return x, w_q, w_scale, rng.standard_normal(out_features, dtype=np.float32)


def assert_within(y, exact, bound, dtype):
    """Check that |y - exact| is at most what float32 sums may lose of the bound, and one rounding to the dtype."""
    most = 32 * EPSILON["float32"] * bound + EPSILON[dtype] * np.abs(exact) + 1e-7
    assert (np.abs(y.astype(np.float64) - exact) <= most).all()


@needs_device
@A16
@max_examples
@given(features=FEATURES, bias=st.booleans(), data=st.data(), pick=st.integers(0, 999))
def test_float_activations(kernel, features, bias, data, pick):
    problems = [
        ((rows, *features), float_problem("bit_linear", (rows, *features), scale, "a16", dtype, bias, layout))
        for layout, scale in KINDS
        for rows in map(data.draw, (FEW_ROWS, ROWS, MANY_ROWS))
        for dtype in sorted({*DTYPES, "float16"})
    ]
    shape, problem = data.draw(st.sampled_from([p for p in problems if kernel.unsupported_reason(p[1]) is None]))
    scale, dtype, configs = problem.scale, problem.x_dtype, kernel.all_configs(problem)
    x, w_q, w_scale, b = draw(shape, scale, dtype)
    w_packed = laid(w_q, problem.layout)
    y = call(kernel, problem, configs[pick % len(configs)], x, w_packed, w_scale, b if bias else None)
    exact, bound = reference.bit_linear_a16_float64(
        x.double().numpy(), w_q, w_scale, b if bias else None, GROUP_SIZE if scale == "group" else 0
    )
    assert_within(y, exact, bound, dtype)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@needs_device
@A16
def test_nan_and_infinity_stay_in_their_row(kernel):
    rows, dtype = (131 if "gemm" in kernel.name else 5), "float16"
    problems = [float_problem("bit_linear", (rows, 17, 300), scale, "a16", dtype) for scale in ("row", "group")]
    problem = next(problem for problem in problems if kernel.unsupported_reason(problem) is None)
    x, w_q, w_scale, _ = draw((rows, 17, 300), problem.scale, dtype)
    x[1, 7], x[3, 200] = torch.nan, torch.inf
    y = call(kernel, problem, kernel.configs(problem)[0], x, laid(w_q), w_scale, None)
    assert np.isnan(y[1]).all()
    assert not np.isfinite(y[3]).any()
    assert np.isfinite(np.delete(y, [1, 3], axis=0)).all()


@needs_device
@GROUPS
@max_examples
@given(rows=ROWS, features=FEATURES, bias=st.booleans(), pick=st.integers(0, 999))
def test_group_scales(kernel, rows, features, bias, pick):
    shape = (rows, *features)
    x, w_q, w_scale, b = draw(shape, "group", "float32")
    x_q, x_scale = reference.quantize_activation(x.numpy())
    problem = float_problem(kernel.op, shape, "group", "a8", bias=bias)
    inputs = (x,) if kernel.op == "bit_linear" else (x_q, x_scale)
    configs = kernel.all_configs(problem)
    y = call(kernel, problem, configs[pick % len(configs)], *inputs, laid(w_q), w_scale, b if bias else None)
    values = x_q.astype(np.float64) * x_scale[:, None]
    exact, bound = reference.bit_linear_a16_float64(values, w_q, w_scale, b if bias else None, GROUP_SIZE)
    assert_within(y, exact, bound, "float32")


@GROUPS
def test_groups_are_whole_runs(kernel):
    problem = float_problem(kernel.op, (4, 8, 300), "group", "a8")
    assert "takes groups of a multiple of 64 inputs, not of 96" in kernel.unsupported_reason(
        replace(problem, group_size=96)
    )
    assert kernel.unsupported_reason(replace(problem, scale="row", group_size=0)) == "takes i2 with group scales, or t5"


@needs_device
@INPUT_GRAD
@max_examples
@given(
    rows=ROWS,
    features=FEATURES,
    scale=st.sampled_from(["tensor", "row"]),
    layout=st.sampled_from(I2_LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    pick=st.integers(0, 999),
)
def test_the_gradient_of_the_input(kernel, rows, features, scale, layout, dtype, pick):
    shape = (rows, *features)
    _, w_q, w_scale, _ = draw(shape, scale, dtype)
    dy = draw((rows, features[1], features[0]), "tensor", dtype)[0]
    problem = float_problem(kernel.op, shape, scale, x_dtype=dtype, layout=layout)
    configs = kernel.all_configs(problem)
    dx = call(kernel, problem, configs[pick % len(configs)], dy, laid(w_q, layout), w_scale)
    exact, bound = reference.bit_linear_a16_float64(
        dy.double().numpy() * w_scale, np.ascontiguousarray(w_q.T), np.float32(1)
    )
    # rounding dY * scale twice to a half loses less than a float32's error
    assert dx.shape == (rows, features[1])
    assert_within(dx, exact, (1 if dtype == "float32" else 4) * bound, dtype)
