"""The plain torch kernels: the contract on any layout, shape and scale, since they are the last choice for all."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit import reference
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.torch import BACKEND
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import Problem

KERNELS = {kernel.name: kernel for kernel in BACKEND.kernels()}
LAYOUTS = sorted({name for format in FORMATS for name in (format, registry.preferred_layout(format, "cpu").name)})
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 70), st.integers(1, 70))
GROUP = 32


def draw(shape, layout):
    """Draw x (M, K), w_q (N, K), and the packed weight in a layout."""
    rows, out_features, in_features = shape
    rng = np.random.default_rng(rows * 10007 + out_features * 101 + in_features)
    x = rng.standard_normal((rows, in_features), dtype=np.float32)
    w_q = rng.integers(-1, 2, (out_features, in_features), dtype=np.int8)
    known = registry.get_layout(layout)
    packed = known.from_canonical(torch.from_numpy(known.format.pack(w_q)), out_features, in_features)
    return x, w_q, packed


def run(name, problem, *tensors):
    kernel = KERNELS[name]
    assert kernel.unsupported_reason(problem) is None
    return kernel.bind(problem, kernel.configs(problem)[0])(*tensors)


def scales(kind, w_q):
    """Return scales of a kind, float32."""
    groups = -(-w_q.shape[1] // GROUP)
    shape = {"tensor": (), "row": w_q.shape[:1], "group": (len(w_q), groups)}[kind]
    return np.linspace(0.1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def linear(op, shape, layout, kind="tensor", activation="a8", y_dtype="float32"):
    group_size = GROUP if kind == "group" else 0
    return Problem(op, "cpu", 1, *shape[1:], layout, activation, "float32", y_dtype, kind, group_size)


@EVERY_LAYOUT
@given(shape=SHAPES)
def test_matmul_is_exact(layout, shape):
    x, w_q, packed = draw(shape, layout)
    x_q, _ = reference.quantize_activation(x)
    acc = run("torch.ternary_matmul", linear("ternary_matmul", shape, layout), torch.from_numpy(x_q), packed)
    assert acc.dtype == torch.int32
    assert np.array_equal(acc.numpy(), reference.ternary_matmul(x_q, w_q))


@EVERY_LAYOUT
@pytest.mark.parametrize("kind", ["tensor", "row"])
@given(shape=SHAPES, with_bias=st.booleans())
def test_layers_are_the_contract_bit_for_bit(layout, kind, shape, with_bias):
    x, w_q, packed = draw(shape, layout)
    w_scale = scales(kind, w_q)
    bias = np.linspace(-1, 1, len(w_q), dtype=np.float32) if with_bias else None
    tensors = torch.from_numpy(w_scale), None if bias is None else torch.from_numpy(bias)
    y = run("torch.bit_linear", linear("bit_linear", shape, layout, kind), torch.from_numpy(x), packed, *tensors)
    assert np.array_equal(y.numpy(), reference.bit_linear(x, w_q, w_scale, bias))


@EVERY_LAYOUT
@given(shape=SHAPES)
def test_group_scales_stay_in_their_bound(layout, shape):
    x, w_q, packed = draw(shape, layout)
    w_scale = scales("group", w_q)
    problem = linear("bit_linear", shape, layout, "group")
    y = run("torch.bit_linear", problem, torch.from_numpy(x), packed, torch.from_numpy(w_scale), None)
    x_q, x_scale = reference.quantize_activation(x)
    wide = x_q * x_scale[:, None].astype(np.float64)
    exact, magnitude = reference.bit_linear_a16_float64(wide, w_q, w_scale, group_size=GROUP)
    assert (np.abs(y.numpy() - exact) <= 8 * 2.0**-23 * magnitude).all()


@EVERY_LAYOUT
@pytest.mark.parametrize("kind", ["tensor", "row", "group"])
@given(shape=SHAPES)
def test_float_activations_stay_in_their_bound(layout, kind, shape):
    x, w_q, packed = draw(shape, layout)
    w_scale = scales(kind, w_q)
    problem = linear("bit_linear", shape, layout, kind, "a16")
    y = run("torch.bit_linear_a16", problem, torch.from_numpy(x), packed, torch.from_numpy(w_scale), None)
    exact, magnitude = reference.bit_linear_a16_float64(x, w_q, w_scale, group_size=GROUP)
    assert (np.abs(y.numpy() - exact) <= (shape[2] + 4) * 2.0**-23 * magnitude).all()


def test_sums_above_float32_are_exact_in_pieces():
    in_features = 2**18
    x_q = torch.full((1, in_features), -128, dtype=torch.int8)
    packed = torch.from_numpy(FORMATS["i2"].pack(np.full((2, in_features), -1, np.int8)))
    acc = run("torch.ternary_matmul", linear("ternary_matmul", (1, 2, in_features), "i2"), x_q, packed)
    assert acc.tolist() == [[128 * in_features] * 2]


@pytest.mark.parametrize("shape", [(1, 3, 5), (4, 17, 100)])
def test_activations_quantized_by_groups(shape):
    m, n, k = shape
    rng = np.random.default_rng(3)
    x, w_q = rng.standard_normal((m, k)).astype(np.float32), rng.integers(-1, 2, (n, k)).astype(np.int8)
    x[-1, -1] = np.nan
    w_scale = rng.random((n, -(-k // GROUP))).astype(np.float32)
    packed, scale = torch.from_numpy(FORMATS["i2"].pack(w_q)), torch.from_numpy(w_scale)
    y = run(
        "torch.bit_linear", linear("bit_linear", shape, "i2", "group", "a8g"), torch.from_numpy(x), packed, scale, None
    )
    np.testing.assert_array_equal(y.numpy(), reference.bit_linear_a8g(x, w_q, w_scale, None, GROUP))


def test_each_kernel_says_which_activation_it_serves():
    problem = linear("bit_linear", (1, 4, 4), "i2", activation="a16")
    assert KERNELS["torch.bit_linear"].unsupported_reason(problem) == "serves activation='a8' and 'a8g'"
    assert (
        KERNELS["torch.bit_linear_a16"].unsupported_reason(linear("bit_linear", (1, 4, 4), "i2"))
        == "serves activation='a16'"
    )
