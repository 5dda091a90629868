"""Derivatives of every order and direction are those of the straight-through layer written in plain torch.

y = x^ @ w^.T + bias        x^ = n + (Q(n) - n).detach(), n is x or its norm; w^ = w + (Q(w) - w).detach()
"""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, hvp, vhp
from torch.func import functional_call, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F

from bitnet_jit import BitLinear, LoraLinear, PackedBitLinear, RMSNorm, set_quantization_strength
from bitnet_jit.kernels.torch.norm import norm_rows, quantize_rows
from bitnet_jit.nn.rms_norm import norm_inside
from bitnet_jit.quant import dequantize_weight, quantize_weight

IN, HIDDEN, OUT, ROWS = 7, 6, 3, 2
# torch scripts some of its own rules when forward AD is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums of a few float32 products in another order


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def bit_linear(in_features, out_features):
    return BitLinear(in_features, out_features)


def normed_bit_linear(in_features, out_features):
    layer = BitLinear(in_features, out_features, use_rms_norm=True)
    nn.init.uniform_(layer.rms_norm.weight, 0.5, 2)
    return layer


def blended(in_features, out_features):
    layer = BitLinear(in_features, out_features)
    set_quantization_strength(layer, 0.5)
    return layer


def packed(in_features, out_features):
    return bit_linear(in_features, out_features).pack("t5")


def grouped(in_features, out_features):
    codes = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)
    return PackedBitLinear.from_codes(codes, torch.rand(out_features, -(-in_features // 4)), group_size=4)


def normed_packed(in_features, out_features):
    layer = normed_bit_linear(in_features, out_features).pack()
    layer.rms_norm.requires_grad_(True)
    return layer


def lora(in_features, out_features):
    layer = LoraLinear(bit_linear(in_features, out_features).pack(), r=2)
    nn.init.normal_(layer.lora_B.weight)
    return layer


def normed_lora(in_features, out_features):
    layer = LoraLinear(normed_bit_linear(in_features, out_features).pack(), r=2)
    nn.init.normal_(layer.lora_B.weight)
    return layer


KINDS = [bit_linear, normed_bit_linear, blended, packed, grouped, normed_packed, lora, normed_lora]


def straight_through(x, rounded, strength=1.0):
    return x + strength * (rounded - x).detach()


def round_rows(x):
    x_q, x_scale = quantize_rows(x.reshape(-1, x.shape[-1]))
    return (x_q * x_scale[:, None]).reshape(x.shape)


class Plain(nn.Module):
    """A layer of ours in plain torch, with its own parameters."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.strength = layer, getattr(layer, "strength", torch.tensor(1.0))

    def forward(self, x):
        layer = self.layer
        if isinstance(layer, LoraLinear):
            normed = self.normed(layer.base, x)
            update = F.linear(F.linear(normed, layer.lora_A.weight), layer.lora_B.weight)
            return self.linear(layer.base, normed) + layer.scaling * update
        return self.linear(layer, self.normed(layer, x))

    def normed(self, layer, x):
        norm = norm_inside(layer)
        return x if norm is None else norm_rows(x, norm.weight, norm.eps)

    def linear(self, layer, x):
        x = straight_through(x, round_rows(x.detach()), self.strength)
        if isinstance(layer, PackedBitLinear):
            return F.linear(x, layer.dequantize(), layer.bias)
        rounded = dequantize_weight(*quantize_weight(layer.weight))
        return F.linear(x, straight_through(layer.weight, rounded, self.strength), layer.bias)


def network(kind):
    """Two layers of a kind and a norm between them, and the same in plain torch."""
    ours = nn.ModuleList([kind(IN, HIDDEN), RMSNorm(HIDDEN), kind(HIDDEN, OUT)])
    plain = nn.ModuleList([Plain(ours[0]), NormRows(ours[1]), Plain(ours[2])])
    return ours, plain


class NormRows(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.layer = norm

    def forward(self, x):
        return norm_rows(x, self.layer.weight, self.layer.eps)


def function(layers, prefix=""):
    """x and the parameters that want a gradient -> a number that depends on both in a curved way."""
    names = [name for name, p in layers.named_parameters() if p.requires_grad]
    modules = nn.Sequential(layers[0], nn.Tanh(), layers[1], layers[2])
    order = {"0": "0", "1": "2", "2": "3"}

    def run(x, *tensors):
        given = {order[name[0]] + name[1:]: tensor for name, tensor in zip(names, tensors, strict=True)}
        return (functional_call(modules, given, x).tanh() ** 2).sum()

    return run, [dict(layers.named_parameters())[name].detach().clone() for name in names]


def both(kind):
    ours, plain = network(kind)
    x = torch.randn(ROWS, IN)
    (run, tensors), (run_plain, tensors_plain) = function(ours), function(plain)
    assert len(tensors) == len(tensors_plain)
    inputs = (x, *tensors)
    assert all(map(torch.equal, tensors, tensors_plain))
    return run, run_plain, inputs


def assert_alike(result, expected, tolerance=None):
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(result, expected, **(tolerance or CLOSE))
        return
    assert len(result) == len(expected)
    for one, other in zip(result, expected, strict=True):
        assert_alike(one, other, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_hessians(kind):
    run, plain, inputs = both(kind)
    expected = hessian(plain, inputs)
    assert all(block.abs().max() > 0 for row in expected[:2] for block in row[:2])
    assert_alike(hessian(run, inputs), expected)
    assert_alike(jacrev(jacrev(run, 0), 0)(*inputs), expected[0][0])
    every = tuple(range(len(inputs)))
    assert_alike(jacfwd(jacrev(run, every), every)(*inputs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_products_with_hessians(kind):
    run, plain, inputs = both(kind)
    vectors = tuple(torch.randn_like(tensor) for tensor in inputs)
    for product in (hvp, vhp):
        assert_alike(product(run, inputs, vectors), product(plain, inputs, vectors))


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_on_the_gradient_is_trained_through(kind):
    """By `create_graph=True` and `backward`, through the modules themselves and their own parameters."""
    ours, plain = network(kind)
    result = []
    for layers in (ours, plain):
        x = torch.randn(ROWS, IN, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layers[2](layers[1](layers[0](x).tanh()))
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        leaves = [x, *(p for p in layers.parameters() if p.requires_grad)]
        loss = dx.square().sum() + y.sum()
        result.append(torch.autograd.grad(loss, leaves, retain_graph=True, create_graph=True, allow_unused=True))
        third = sum(g.square().sum() for g in result[-1] if g is not None)
        result[-1] += torch.autograd.grad(third, leaves)
    ours_found, expected = ([g for g in each if g is not None] for each in result)
    assert_alike(ours_found, expected, {"rtol": 1e-3, "atol": 1e-4})  # third derivatives have terms that cancel


@pytest.mark.parametrize("kind", KINDS)
def test_first_derivatives_by_torch_func_and_forward_ad(kind):
    run, plain, inputs = both(kind)
    vectors = tuple(torch.randn_like(tensor) for tensor in inputs)
    assert_alike(jvp(run, inputs, vectors), jvp(plain, inputs, vectors))
    assert_alike(vjp(run, *inputs)[1](torch.tensor(1.0)), vjp(plain, *inputs)[1](torch.tensor(1.0)))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, vectors, strict=True)]
        assert_alike(forward_ad.unpack_dual(run(*duals)), forward_ad.unpack_dual(plain(*duals)))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_under_transforms_are_the_usual_ones_to_the_bit(kind):
    layer, x = kind(IN, OUT), torch.randn(4, ROWS, IN)
    expected = layer(x).detach()
    assert torch.equal(vjp(layer, x)[0], expected)
    assert torch.equal(jvp(layer, (x,), (x,))[0], expected)
    assert torch.equal(vmap(layer)(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_each_sample(kind):
    run, plain, (x, *tensors) = both(kind)
    each = vmap(torch.func.grad(run, tuple(range(len(tensors) + 1))), (0, *(None,) * len(tensors)))
    each_plain = vmap(torch.func.grad(plain, tuple(range(len(tensors) + 1))), (0, *(None,) * len(tensors)))
    assert_alike(each(x[:, None], *tensors), each_plain(x[:, None], *tensors))


@pytest.mark.parametrize("use_rms_norm", [False, True])
def test_creating_a_graph_changes_no_gradient(use_rms_norm):
    layer, x = BitLinear(64, 32, use_rms_norm=use_rms_norm), torch.randn(5, 64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    plain, graphed = (
        torch.autograd.grad(layer(x).square().sum(), leaves, create_graph=create) for create in (False, True)
    )
    for result, expected in zip(graphed, plain, strict=True):
        assert result.grad_fn is not None
        torch.testing.assert_close(result, expected, **CLOSE)


def test_codes_and_no_activations_are_kept_for_the_backward_pass():
    """What stands for x in second derivatives takes no memory."""
    layer, kept = BitLinear(256, 8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(64, 256, requires_grad=True))
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) < 64 * 256 * 2
