"""Gradients of a packed layer and of RMSNorm against the dense formulas in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit.ops  # noqa: F401
from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry

EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
GROUP = 32

ops = torch.ops.bitnet_jit


def packed_layer(format, kind, out_features, in_features, seed=0):
    """w_packed in the CPU's layout, its name, w_scale, and the dense weight in float64."""
    rng = np.random.default_rng(seed)
    w_q = rng.integers(-1, 2, (out_features, in_features)).astype(np.int8)
    shape = {"tensor": (), "row": (out_features,), "group": (out_features, -(-in_features // GROUP))}[kind]
    w_scale = rng.uniform(0.1, 2.0, shape).astype(np.float32)
    layout = registry.preferred_layout(format, "cpu")
    w_packed = layout.from_canonical(layout.format.pack(torch.from_numpy(w_q)), out_features, in_features)
    dense = w_q * reference.expand_scale(w_scale, w_q.shape, GROUP)
    return w_packed, layout.name, torch.as_tensor(w_scale), dense


def assert_near(result, expected, magnitude, terms, eps):
    error = np.abs(result.double().numpy() - expected)
    np.testing.assert_array_less(error, (terms + 4) * eps * magnitude + 1e-30)


@pytest.mark.parametrize(
    ("format", "kind"), [("i2", "tensor"), ("i2", "row"), ("i2", "group"), ("t5", "tensor"), ("t5", "row")]
)
@pytest.mark.parametrize("dtype", EPS)
def test_packed_layer(format, kind, dtype):
    in_features, out_features = 70, 37
    w_packed, layout, w_scale, dense = packed_layer(format, kind, out_features, in_features)
    x = torch.randn(3, 5, in_features).to(dtype).requires_grad_()
    bias = torch.randn(out_features).requires_grad_()
    dy = torch.randn(3, 5, out_features).to(dtype)
    group_size = GROUP if kind == "group" else 0
    ops.bit_linear(x, w_packed, w_scale, bias, in_features, out_features, layout, group_size, "a8").backward(dy)
    wide = dy.double().numpy()
    assert x.grad.dtype == dtype
    assert_near(x.grad, wide @ dense, np.abs(wide) @ np.abs(dense), out_features, EPS[dtype])
    assert_near(bias.grad, wide.sum((0, 1)), np.abs(wide).sum((0, 1)), 15, EPS[torch.float32])


@given(rows=st.integers(0, 5), in_features=st.integers(1, 90), out_features=st.integers(1, 90), seed=st.integers(0, 99))
def test_input_gradient_of_any_shape(rows, in_features, out_features, seed):
    w_packed, layout, w_scale, dense = packed_layer("i2", "row", out_features, in_features, seed)
    dy = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, out_features)).astype(np.float32))
    dx = ops.bit_linear_input_grad(dy, w_packed, w_scale, in_features, out_features, layout, 0)
    wide = dy.double().numpy()
    assert_near(dx, wide @ dense, np.abs(wide) @ np.abs(dense), out_features, EPS[torch.float32])


def test_the_packed_gradient_is_the_training_layers():
    x, weight = torch.randn(4, 70), torch.randn(37, 70)
    layout = registry.preferred_layout("i2", "cpu")
    w_packed, w_scale = ops.quantize_weight(weight, layout.name)
    trained, packed = x.clone().requires_grad_(), x.clone().requires_grad_()
    ops.bit_linear_train(trained, weight, None, None, 0.0).square().sum().backward()
    ops.bit_linear(packed, w_packed, w_scale, None, 70, 37, layout.name, 0, "a8").square().sum().backward()
    torch.testing.assert_close(packed.grad, trained.grad, rtol=1e-5, atol=1e-3)


def test_a_frozen_scale_has_no_gradient():
    w_packed, layout, w_scale, _ = packed_layer("i2", "tensor", 3, 5)
    with pytest.raises(InvalidInput, match="w_scale: requires_grad=True"):
        ops.bit_linear(torch.ones(2, 5), w_packed, w_scale.requires_grad_(), None, 5, 3, layout, 0, "a8")


@given(rows=st.integers(0, 5), features=st.integers(1, 70), seed=st.integers(0, 99))
def test_rms_norm(rows, features, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight, dy = (
        torch.randn(shape, generator=generator) for shape in ((rows, features), (features,), (rows, features))
    )
    ours = x.clone().requires_grad_(), weight.clone().requires_grad_()
    wide = x.double().requires_grad_(), weight.double().requires_grad_()
    ops.rms_norm(*ours, 1e-5).backward(dy)
    (wide[0] / (wide[0].square().mean(-1, keepdim=True) + 1e-5).sqrt() * wide[1]).backward(dy.double())
    for result, expected in zip(ours, wide, strict=True):
        torch.testing.assert_close(result.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)


def test_rms_norm_has_second_derivatives():
    x, weight = torch.randn(3, 7, dtype=torch.float32), torch.rand(7) + 0.5
    result = []
    for dtype, norm in ((torch.float32, ops.rms_norm), (torch.float64, plain_norm)):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
        (dx,) = torch.autograd.grad(norm(*leaves, 1e-5).square().sum(), leaves[0], create_graph=True)
        result.append(torch.autograd.grad(dx.square().sum(), leaves))
    for ours, wanted in zip(*result, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-4)


def plain_norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize(
    ("dy", "words"),
    [
        (torch.ones(3, 6), r"dy: expected float32 \(3, 5\) as x, got torch.float32 \(3, 6\)"),
        (torch.ones(3, 5, dtype=torch.bfloat16), "dy: .*got torch.bfloat16"),
    ],
)
def test_gradients_of_other_shapes_are_refused(dy, words):
    with pytest.raises(InvalidInput, match=words):
        ops.rms_norm_gradients(dy, torch.ones(3, 5), torch.ones(5), 1e-5)
