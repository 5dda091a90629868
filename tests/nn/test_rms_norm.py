"""`RMSNorm` against float64, and as a module."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bitnet_jit import RMSNorm, reference
from bitnet_jit.errors import InvalidInput

EPS = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", [(70,), (3, 70), (2, 0, 70), (2, 3, 70)])
def test_output(dtype, shape):
    norm, x = RMSNorm(70, eps=1e-5), torch.randn(shape).to(dtype)
    nn.init.normal_(norm.weight)
    y = norm(x)
    expected = reference.rms_norm_float64(x.reshape(-1, 70).float(), norm.weight.detach(), 1e-5)
    assert y.dtype == dtype
    assert y.shape == shape
    np.testing.assert_allclose(y.detach().double().reshape(-1, 70).numpy(), expected, rtol=4 * EPS[dtype], atol=1e-7)


def test_it_is_torchs_rms_norm():
    ours, theirs = RMSNorm(33, eps=1e-3), nn.RMSNorm(33, eps=1e-3)
    nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 33, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x))
    (expected,) = torch.autograd.grad(theirs(x).square().sum(), x)
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_as_a_module():
    norm = RMSNorm(8, eps=1e-6, dtype=torch.bfloat16)
    assert repr(norm) == "RMSNorm(8, eps=1e-06)"
    assert torch.equal(norm.weight, torch.ones(8, dtype=torch.bfloat16))
    assert torch.equal(copy.deepcopy(norm)(torch.ones(8)), norm(torch.ones(8)))
    assert RMSNorm(8, device="meta")(torch.ones(3, 8, device="meta")).shape == (3, 8)


def test_compiled_whole():
    torch._dynamo.reset()
    norm, x = RMSNorm(70), torch.randn(3, 70)
    assert torch.equal(torch.compile(norm, fullgraph=True, backend="aot_eager")(x), norm(x))


@pytest.mark.parametrize(
    ("arguments", "words"), [((0,), "hidden_size: .*0"), ((8, -1.0), "eps: .*-1.0"), ((8, float("nan")), "eps: .*nan")]
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        RMSNorm(*arguments)


def test_input_of_another_width():
    with pytest.raises(InvalidInput, match="weight: "):
        RMSNorm(8)(torch.ones(3, 9))
