"""Layers with a norm in one launch give the bits of the row kernel and the product behind it, whatever stands in x."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_calls import BACKEND, ON_GPU, call, laid, max_examples, needs_device, problem_of

from bitnet_jit.kernels.triton.linear import norm_gemm
from bitnet_jit.kernels.triton.linear.norm_gemv import OPERANDS

FIRST_STEPS = {op: op.replace("_bit_linear", "_quantize") for op in OPERANDS}
DTYPES = ["float32", "bfloat16", "float16"] if ON_GPU else ["float32"]  # the interpreter truncates to halves
ROWS = st.sampled_from([1, 0, 2])
OUT_FEATURES = st.sampled_from([1, 3, 17, 33, 131])
IN_FEATURES = st.sampled_from([1, 3, 33, 48, 255, 256, 257, 700, 1040] + [2560, 6912, 8192] * ON_GPU)
few = settings(max_examples=min(8, settings.default.max_examples))
EXTREMES = st.sampled_from([None, 0.0, 1e-41, 1e-20, np.nan, np.inf, -np.inf, -3e4, 1e19])


def kernel_of(problem):
    """Return the kernel that comes first for a problem."""
    fitting = [k for k in BACKEND.kernels() if k.op == problem.op and k.unsupported_reason(problem) is None]
    return max(fitting, key=lambda kernel: kernel.priority(problem))


def draw(op, shape, dtype, extreme):
    """Draw x and what stands beside it, the norm's weight, W; one row of x, but for its first element, is extreme."""
    rows, out_features, in_features = shape
    generator = torch.Generator().manual_seed(rows * 10007 + out_features * 101 + in_features)
    x, other = torch.randn(2, rows, in_features, generator=generator)
    if extreme is not None and rows:
        x[rows // 2, 1:] = extreme
    weight = torch.randn(in_features, generator=generator).to(dtype)
    w_q = torch.randint(-1, 2, (out_features, in_features), generator=generator, dtype=torch.int8)
    xs = (x.to(dtype),) if op == "rms_norm_bit_linear" else (x.to(dtype), other.to(dtype))
    return xs, weight, torch.from_numpy(laid(w_q.numpy()))


def problem(op, shape, dtype, scale, bias, norm):
    """Return the problem of a layer with what stands before it."""
    return problem_of(
        op,
        shape,
        layout="i2/planes",
        activation="a8",
        x_dtype=dtype,
        y_dtype=dtype,
        scale=scale,
        bias="" if bias is None else "float32",
        w_dtype=dtype if norm else "",
    )


def in_two_steps(op, shape, dtype, scale, xs, weight, layer):
    """Return what the row kernel and the product behind it give."""
    rows, out_features, in_features = shape
    y_dtype = dtype if op == "add_rms_norm_bit_linear" else "int8"
    bias = "" if weight is None else dtype
    first = problem_of(FIRST_STEPS[op], (rows, in_features, in_features), x_dtype=dtype, y_dtype=y_dtype, bias=bias)
    kernel = kernel_of(first)
    *total, x_q, x_scale = call(kernel, first, kernel.configs(first)[0], *xs, weight, 1e-5)
    second = problem_of(
        "quantized_linear",
        shape,
        layout="i2/planes",
        activation="a8",
        x_dtype="int8",
        y_dtype=dtype,
        scale=scale,
        bias="" if layer[2] is None else "float32",
    )
    kernel = kernel_of(second)
    return *total, call(kernel, second, kernel.configs(second)[0], x_q, x_scale, *layer)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy in the interpreter, of infinity
@needs_device
@pytest.mark.parametrize("op", OPERANDS)
@max_examples
@given(
    shape=st.tuples(ROWS, OUT_FEATURES, IN_FEATURES),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from(["tensor", "row"]),
    has_bias=st.booleans(),
    has_norm=st.booleans(),
    extreme=EXTREMES,
    pick=st.integers(0, 999),
)
def test_one_launch_is_two_steps_to_the_bit(op, shape, dtype, scale, has_bias, has_norm, extreme, pick):
    xs, weight, w_packed = draw(op, shape, getattr(torch, dtype), extreme)
    weight = weight if has_norm or op != "silu_mul_norm_bit_linear" else None
    out_features = shape[1]
    w_scale = torch.linspace(0.01, 1, out_features) if scale == "row" else torch.tensor(0.3)
    layer = (w_packed, w_scale, torch.linspace(-1, 1, out_features) if has_bias else None)
    asked = problem(op, shape, dtype, scale, layer[2], weight is not None)
    kernel = kernel_of(asked)
    configs = kernel.all_configs(asked)
    result = call(kernel, asked, configs[pick % len(configs)], *xs, weight, 1e-5, *layer)
    wanted = in_two_steps(op, shape, dtype, scale, xs, weight, layer)
    result = result if isinstance(result, tuple) else (result,)
    assert len(result) == len(wanted)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(result, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@needs_device
@pytest.mark.parametrize("op", OPERANDS)
@few
@given(
    rows=st.sampled_from([1, 0, 3, 17, 33] + [512, 600] * ON_GPU),
    layer=st.tuples(OUT_FEATURES, IN_FEATURES),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from(["tensor", "row"]),
    has_bias=st.booleans(),
    has_norm=st.booleans(),
    extreme=EXTREMES,
    pick=st.integers(0, 999),
)
def test_one_call_for_many_rows_is_two_steps_to_the_bit(
    op, rows, layer, dtype, scale, has_bias, has_norm, extreme, pick
):
    shape = (rows, *layer)  # of the call: its kernel and config are those of many rows, but few are soon computed
    xs, weight, w_packed = draw(op, shape, getattr(torch, dtype), extreme)
    weight = weight if has_norm or op != "silu_mul_norm_bit_linear" else None
    w_scale = torch.linspace(0.01, 1, layer[0]) if scale == "row" else torch.tensor(0.3)
    operands = (w_packed, w_scale, torch.linspace(-1, 1, layer[0]) if has_bias else None)
    asked = replace(problem(op, shape, dtype, scale, operands[2], weight is not None), rows=norm_gemm.MIN_ROWS)
    kernel = kernel_of(asked)
    assert kernel.name == f"triton.gemm_{op}"
    configs = kernel.configs(asked)
    result = call(kernel, asked, configs[pick % len(configs)], *xs, weight, 1e-5, *operands)
    wanted = in_two_steps(op, shape, dtype, scale, xs, weight, operands)
    result = result if isinstance(result, tuple) else (result,)
    assert len(result) == len(wanted)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(result, wanted, strict=True))


@needs_device
@pytest.mark.parametrize("features", [48, 50])
def test_gate_and_up_may_be_parts_of_one_tensor(features):
    op, shape = "relu2_mul_norm_bit_linear", (2, 5, features)
    _, weight, w_packed = draw(op, shape, torch.float32, None)
    both = torch.randn(2, 2 * features, generator=torch.Generator().manual_seed(1))
    gate, up = both.chunk(2, -1)
    asked, layer = problem(op, shape, "float32", "tensor", None, True), (w_packed, torch.tensor(0.5), None)
    kernel = kernel_of(asked)
    parts, copies = (
        call(kernel, asked, kernel.configs(asked)[0], *xs, weight, 1e-5, *layer)
        for xs in ((gate, up), (gate.contiguous(), up.contiguous()))
    )
    assert np.array_equal(parts, copies)


def test_refusals_are_words():
    op = "add_rms_norm_bit_linear"
    kernel = kernel_of(problem(op, (1, 8, 256), "float32", "tensor", None, True))
    for shape in ((3, 8, 256), (1, 8, 8193)):
        assert kernel.unsupported_reason(problem(op, shape, "float32", "tensor", None, True))


def test_programs_are_as_many_as_multiprocessors_where_registers_hold_their_weights():
    asked = problem("add_rms_norm_bit_linear", (1, 13824, 2560), "bfloat16", "tensor", None, True)
    kernel = kernel_of(asked)
    for config in kernel.configs(asked):
        (launch,) = kernel.bind(asked, config).launches(1)
        assert launch.programs <= 132
        assert launch.programs * config.num_warps * config.tiles >= 13824
