"""`bit_linear_train`: its forward is the reference bit for bit, its gradients are the straight-through estimator's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils.checkpoint import checkpoint

import bitnet_jit.ops  # noqa: F401
from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry

EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
FLOATS = st.floats(-(2.0**20), 2.0**20, width=32)


def train(x, weight, bias, norm_weight=None, eps=0.0):
    return torch.ops.bitnet_jit.bit_linear_train(x, weight, bias, norm_weight, eps)


@st.composite
def layers(draw):
    """x (M, K), w (N, K), dy (M, N) float32 of one small layer; x and w never all tiny."""
    rows, inputs, outputs = draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 9))
    return tuple(
        draw(arrays(np.float32, shape, elements=FLOATS))
        for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )


def estimator(x, w, dy):
    """The gradients in float64, each with the sum of the magnitudes of its terms, which bounds its rounding."""
    dy = dy.astype(np.float64)
    x_q, x_scale = reference.quantize_activation(x)
    w_q, w_scale = reference.quantize_weight(w)
    wide_x, wide_w = x_q * x_scale.astype(np.float64)[:, None], w_q * np.float64(w_scale)
    gradients = dy @ wide_w, dy.T @ wide_x, dy.sum(0)
    return gradients, (np.abs(dy) @ np.abs(wide_w), np.abs(dy).T @ np.abs(wide_x), np.abs(dy).sum(0))


def assert_gradients(tensors, x, w, dy, eps):
    """The .grad of x, w and bias are the estimator's, up to the rounding of each term and of their sum."""
    terms = max(*x.shape, *w.shape) + 4
    for tensor, expected, magnitude in zip(tensors, *estimator(x, w, dy), strict=True):
        assert tensor.grad.dtype == tensor.dtype
        error = np.abs(tensor.grad.double().numpy() - expected)
        np.testing.assert_array_less(error, terms * eps * magnitude + 1e-30)


def leaves(*arrays, dtype=torch.float32):
    return [torch.as_tensor(a).detach().to(dtype, copy=True).requires_grad_() for a in arrays]


@given(layer=layers(), with_bias=st.booleans())
def test_forward_is_the_reference_bit_for_bit(layer, with_bias):
    x, w, dy = layer
    bias = dy[0] if with_bias else None
    expected = reference.bit_linear(x, *reference.quantize_weight(w), bias)
    tensors = torch.from_numpy(x), torch.from_numpy(w), None if bias is None else torch.from_numpy(bias)
    np.testing.assert_array_equal(train(*tensors).numpy(), expected)
    np.testing.assert_array_equal(train(tensors[0].requires_grad_(), *tensors[1:]).detach().numpy(), expected)


@given(layer=layers())
def test_gradients_are_the_straight_through_estimator(layer):
    x, w, dy = layer
    tensors = leaves(x, w, np.zeros(len(w)))
    train(*tensors).backward(torch.from_numpy(dy))
    assert_gradients(tensors, x, w, dy, EPS[torch.float32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("master", [torch.float32, None])
def test_half_types_with_float32_or_equal_masters(dtype, master):
    generator = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(shape, generator=generator).to(dtype) for shape in ((9, 33), (17, 33), (9, 17)))
    tensors = [tensor.clone().to(kind).requires_grad_() for tensor, kind in ((x, dtype), (w, master), (dy[0], master))]
    y = train(*tensors)
    assert y.dtype == dtype
    expected = reference.bit_linear(x.float(), *reference.quantize_weight(w.float()), dy[0].float())
    assert torch.equal(y, torch.from_numpy(expected).to(dtype))
    y.backward(dy)
    assert_gradients(tensors, x.float().numpy(), w.float().numpy(), dy.float().numpy(), EPS[dtype])


def test_leading_dimensions_and_strides_change_nothing():
    x, w = torch.randn(4, 6, 10), torch.randn(7, 10)
    dy = torch.randn(7, 4, 6).permute(1, 2, 0)
    flat, shaped = leaves(x.reshape(24, 10), w), leaves(x, w)
    train(*flat, None).backward(dy.reshape(24, 7))
    y = train(shaped[0].transpose(0, 1).contiguous().transpose(0, 1), shaped[1], None)
    y.backward(dy)
    assert y.shape == (4, 6, 7)
    assert torch.equal(shaped[0].grad.reshape(24, 10), flat[0].grad)
    assert torch.equal(shaped[1].grad, flat[1].grad)


def test_gradient_of_a_sum_arrives_expanded():
    x, w, bias = leaves(np.eye(3, 5), np.ones((2, 5)), np.zeros(2))
    train(x, w, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((2,), 3.0))
    assert torch.equal(x.grad, torch.full((3, 5), 2.0))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
def test_empty_batches(shape):
    x, w, bias = leaves(np.zeros(shape), np.ones((2, 5)), np.ones(2))
    y = train(x, w, bias)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 2)
    assert x.grad.shape == shape
    assert not w.grad.any()
    assert not bias.grad.any()


def test_a_row_with_nan_poisons_no_other_output():
    x, w = torch.randn(4, 8), torch.randn(3, 8)
    y = train(x, w, None)
    x[2, 3] = torch.nan
    poisoned = train(x, w, None)
    assert poisoned[2].isnan().all()
    assert torch.equal(poisoned[[0, 1, 3]], y[[0, 1, 3]])


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_only_the_gradients_asked_for(wanted):
    full = leaves(np.random.default_rng(1).standard_normal((3, 5)), np.eye(2, 5), np.zeros(2))
    part = [tensor.detach().clone().requires_grad_(asked) for tensor, asked in zip(full, wanted, strict=True)]
    for tensors in (full, part):
        train(*tensors).square().sum().backward()
    for tensor, expected, asked in zip(part, full, wanted, strict=True):
        assert torch.equal(tensor.grad, expected.grad) if asked else tensor.grad is None


def test_backward_keeps_codes_and_no_floats():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        train(*leaves(np.ones((6, 5)), np.ones((2, 5)), np.zeros(2)))
    assert [(t.dtype, tuple(t.shape)) for t in kept] == [
        (torch.int8, (6, 5)),
        (torch.float32, (6,)),
        (torch.uint8, registry.preferred_layout("i2", "cpu").shape(2, 5)),
        (torch.float32, ()),
    ]


def test_second_derivatives_go_straight_through():
    """Of |x w.T|^2 they are 2 w.T w; more in `test_second_derivatives.py`."""
    x, w = leaves(np.ones((1, 4)), np.eye(2, 4))
    (dx,) = torch.autograd.grad(train(x, w, None).square().sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    rounded = torch.ops.bitnet_jit.round_weight(w.detach())
    torch.testing.assert_close(ddx[0], 2 * (rounded.T @ rounded).sum(0))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    x, w, bias = leaves(np.random.default_rng(2).standard_normal((4, 8)), np.eye(6, 8), np.zeros(6))
    train(x, w, bias).square().sum().backward()
    plain = [tensor.grad.clone() for tensor in (x, w, bias)]
    x.grad = w.grad = bias.grad = None
    checkpoint(lambda *a: train(*a).square(), x, w, bias, use_reentrant=reentrant).sum().backward()
    for tensor, expected in zip((x, w, bias), plain, strict=True):
        assert torch.equal(tensor.grad, expected)


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast_casts_the_input_and_nothing_else(backward_inside):
    x, w, bias = leaves(*(np.random.default_rng(3).standard_normal(shape) for shape in ((5, 64), (8, 64), 8)))
    y = train(x.bfloat16(), w, bias)
    y.float().square().sum().backward()
    plain = [y.detach(), *(tensor.grad.clone() for tensor in (x, w, bias))]
    x.grad = w.grad = bias.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        y = train(x, w, bias)
        loss = y.float().square().sum()
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    for result, expected in zip((y, x.grad, w.grad, bias.grad), plain, strict=True):
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(2, 5), torch.ones(3, 4), None), r"x: .*\(\.\.\., 4\), got .*\(2, 5\)"),
        ((torch.ones(2, 4, dtype=torch.float64), torch.ones(3, 4), None), "x: .*float64"),
        ((torch.tensor(1.0), torch.ones(3, 1), None), r"x: .*\(\)"),
        ((torch.ones(2, 4), torch.ones(3, 4, dtype=torch.float64), None), "weight: .*float64"),
        ((torch.ones(2, 4), torch.ones(4), None), r"weight: .*\(4,\)"),
        ((torch.ones(2, 0), torch.ones(3, 0), None), r"weight: .*\(3, 0\)"),
        ((torch.ones(2, 2**18 + 1), torch.ones(1, 2**18 + 1), None), "weight: .*262145"),
        ((torch.ones(2, 4), torch.ones(3, 4), torch.ones(4)), r"bias: .*\(3,\), got .*\(4,\)"),
        ((torch.ones(2, 4), torch.ones(3, 4), torch.ones(3, dtype=torch.int32)), "bias: .*int32"),
        ((torch.ones(2, 4), torch.ones(3, 4), torch.ones(3, device="meta")), "bias: is on meta, x on cpu"),
        ((torch.ones(2, 4), torch.ones(3, 4, device="meta"), None), "weight: is on meta, x on cpu"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_bad_input_is_named(arguments, words, grad):
    x, weight, bias = arguments
    weight = weight.detach().requires_grad_(grad)
    with pytest.raises(InvalidInput, match=words):
        train(x, weight, bias)
