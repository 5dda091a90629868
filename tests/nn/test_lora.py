"""LoRA on packed layers: numbers and gradients against float64, how adapters start, and what `add_lora` refuses."""

import math

import pytest
import torch
from adapted_layers import IN, OUT, RANK, ROWS, SCALES, adapted, mlp, packed, trainable
from torch import nn
from torch.utils.checkpoint import checkpoint

from bitnet_jit import LoraLinear, PackedBitLinear, add_lora, load, reference
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora import lora_layers

EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rounded(x, activation):
    """Return x as the base sees it, float64."""
    if activation == "a16":
        return x.detach().double()
    x_q, x_scale = reference.quantize_activation(x.detach().float().numpy())
    return torch.from_numpy(x_q) * torch.from_numpy(x_scale).double()[:, None]


def run64(layer, x, dy, absolute=False):
    """Return output and gradients of x, A and B by autograd in float64; of magnitudes of all numbers if `absolute`."""
    magnitude = torch.abs if absolute else torch.clone
    seen, w, bias = rounded(x, layer.base.activation), layer.base.dequantize().double(), layer.base.bias.double()
    leaves = [magnitude(t.detach().double()).requires_grad_() for t in (x, layer.lora_A.weight, layer.lora_B.weight)]
    wide_x, a, b = leaves
    straight_through = wide_x + (magnitude(seen) - wide_x).detach()
    y = straight_through @ magnitude(w).T + magnitude(bias) + layer.alpha / layer.r * (wide_x @ a.T) @ b.T
    return y.detach(), *torch.autograd.grad(y, leaves, magnitude(dy.double()))


def assert_numbers(layer, x, dtype):
    """Assert that output and gradients are float64's up to a rounding of each term, each sum and each step between."""
    dy = torch.randn(len(x), layer.out_features).to(dtype)
    x = x.to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    results = y.detach(), *torch.autograd.grad(y, (x, layer.lora_A.weight, layer.lora_B.weight), dy)
    bound = (layer.in_features + layer.out_features + layer.r + 8) * EPS[dtype]
    for tensor, wanted, magnitude in zip(results, run64(layer, x, dy), run64(layer, x, dy, absolute=True), strict=True):
        assert ((tensor.double() - wanted).abs() <= bound * magnitude).all()
    assert results[2].dtype == results[3].dtype == torch.float32


class TestNumbers:
    @pytest.mark.parametrize("activation", ["a8", "a16"])
    @pytest.mark.parametrize("kind", SCALES)
    def test_output_and_gradients(self, kind, activation):
        assert_numbers(adapted(kind=kind, activation=activation), torch.randn(ROWS, IN), torch.float32)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_types_beside_float32_factors(self, dtype):
        assert_numbers(adapted(format="t5"), torch.randn(ROWS, IN), dtype)

    def test_a_new_adapter_changes_no_bit(self):
        base, x = packed(), torch.randn(ROWS, IN)
        y = base(x)
        assert torch.equal(LoraLinear(base)(x), y)

    def test_gradients_reach_a_layer_below(self):
        model = add_lora(mlp(activation="a16"), r=RANK)
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora_B.weight)
        x, dy = torch.randn(ROWS, IN, requires_grad=True), torch.randn(ROWS, 10)
        model(x).backward(dy)
        upper = run64(model[2], model[:2](x), dy)
        lower = run64(model[0], x, upper[1] * (model[0](x) > 0))
        wanted = (*lower[1:], *upper[2:])
        factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for tensor, gradient in zip((x, *factors), wanted, strict=True):
            assert (tensor.grad.double() - gradient).norm() <= 1e-5 * gradient.norm()

    def test_autocast_computes_in_its_dtype(self):
        layer, x = adapted(), torch.randn(ROWS, IN)
        expected = layer(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, expected)
        y.float().square().sum().backward()
        assert layer.lora_A.weight.grad.dtype == torch.float32

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_gradient_checkpointing(self, reentrant):
        layer, x = adapted(), torch.randn(ROWS, IN, requires_grad=True)
        tensors = (x, layer.lora_A.weight, layer.lora_B.weight)
        plain = torch.autograd.grad(layer(x).square().sum(), tensors)
        checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
        for tensor, expected in zip(tensors, plain, strict=True):
            assert torch.equal(tensor.grad, expected)

    def test_dropout_is_for_the_update_and_for_training(self):
        layer, x = LoraLinear(packed(), RANK, dropout=0.5), torch.randn(ROWS, IN)
        nn.init.normal_(layer.lora_B.weight)
        assert not torch.equal(layer(x), layer(x))
        assert torch.equal(layer.eval()(x), layer(x))
        nn.init.zeros_(layer.train().lora_B.weight)
        assert torch.equal(layer(x), layer.base(x))

    def test_leading_dimensions_and_empty_batches(self):
        layer, x = adapted(), torch.randn(2, ROWS, IN)
        y = layer(x)
        assert torch.equal(y, layer(x.flatten(0, 1)).unflatten(0, (2, ROWS)))
        assert torch.equal(layer.base(x)[1], layer.base(x[1]))
        # near, not equal: the sums of torch's float products may depend on the number of rows
        torch.testing.assert_close(y[1], layer(x[1]))
        assert layer(x[:0]).shape == (0, ROWS, OUT)

    def test_compiled_whole(self):
        torch._dynamo.reset()
        layer, x = adapted(), torch.randn(ROWS, IN, requires_grad=True)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), layer(x))
        (gradient,), (wanted,) = (torch.autograd.grad(run(x).sum(), x) for run in (compiled, layer))
        assert torch.equal(gradient, wanted)


class TestStart:
    def test_factors(self):
        layer = LoraLinear(packed(), r=16)
        a, b = layer.lora_A.weight, layer.lora_B.weight
        assert (a.shape, b.shape, a.dtype, b.dtype) == ((16, IN), (OUT, 16), torch.float32, torch.float32)
        limit = 1 / math.sqrt(IN)  # Kaiming's for a = sqrt(5)
        assert a.abs().max() <= limit
        assert (a.std() * math.sqrt(3) / limit - 1).abs() < 0.1
        assert not b.any()

    def test_float32_whatever_the_default_dtype(self):
        base, before = packed(), torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            layer = LoraLinear(base)
        finally:
            torch.set_default_dtype(before)
        assert layer.lora_A.weight.dtype == layer.lora_B.weight.dtype == torch.float32

    @pytest.mark.parametrize(
        ("numbers", "words"),
        [
            ({"r": 0}, "r: .*0"),
            ({"r": 2.0}, r"r: .*2\.0"),
            ({"r": True}, "r: .*True"),
            ({"alpha": 0.0}, r"alpha: .*0\.0"),
            ({"alpha": math.inf}, "alpha: .*inf"),
            ({"alpha": math.nan}, "alpha: .*nan"),
            ({"dropout": 1.0}, r"dropout: .*1\.0"),
            ({"dropout": -0.1}, r"dropout: .*-0\.1"),
            ({"include": ["nope.*"]}, r"include: .*'nope\.\*'"),
            ({"exclude": ["nope"]}, "exclude: .*'nope'"),
            ({"include": "0"}, "include: .*'0'"),
            ({"exclude": ["*"]}, "model: no PackedBitLinear of Sequential is left to adapt, out of 2"),
        ],
    )
    def test_wrong_arguments_change_nothing(self, numbers, words):
        model = mlp()
        model[0].bias.requires_grad_()
        with pytest.raises(InvalidInput, match=words):
            add_lora(model, **numbers)
        assert trainable(model) == ["0.bias"]
        assert [type(module) for module in model] == [PackedBitLinear, nn.ReLU, PackedBitLinear]

    def test_a_base_of_another_kind(self):
        with pytest.raises(InvalidInput, match="base: .*Linear"):
            LoraLinear(nn.Linear(4, 4))

    def test_a_model_without_packed_layers(self):
        with pytest.raises(InvalidInput, match=r"model: no PackedBitLinear of Sequential.*bitnet_jit\.pack"):
            add_lora(nn.Sequential(nn.Linear(4, 4)))

    def test_a_decoder_that_never_calls_its_layers(self):
        decoder = load(embedded_model())
        with pytest.raises(InvalidInput, match=r"qkv is part of PackedAttention, which .*bitnet_jit\.patch"):
            add_lora(decoder)
        assert not lora_layers(decoder)
