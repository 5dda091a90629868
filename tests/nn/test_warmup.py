"""Gradual quantization: a plain layer at strength 0, the ternary one at 1, and both mixed between."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitnet_jit import BitLinear, PackedBitLinear, convert, pack, set_quantization_strength
from bitnet_jit.errors import InvalidInput
from bitnet_jit.quant import dequantize_weight, quantize_weight


def layer_and_input(dtype=torch.float32):
    torch.manual_seed(0)
    return BitLinear(33, 17).to(dtype), torch.randn(5, 33).to(dtype)


def quantized(x):
    x_q, x_scale = torch.ops.bitnet_jit.quantize_activation(x)
    return x_q * x_scale[..., None]


def test_at_0_it_is_a_plain_layer_gradients_and_all():
    layer, x = layer_and_input()
    plain = nn.Linear(33, 17)
    plain.load_state_dict(layer.state_dict())
    set_quantization_strength(layer, 0)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, given in zip((layer, plain), inputs, strict=True):
        module(given).square().sum().backward()
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    assert torch.equal(layer.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("strength", [0.25, 0.75, 1 - 2.0**-20])
def test_between_it_is_the_mixture_and_gradients_are_of_the_mixed_factors(strength):
    layer, x = layer_and_input()
    set_quantization_strength(layer, strength)
    w = layer.weight.detach()
    mixed_w = w + strength * (dequantize_weight(*quantize_weight(w)) - w)
    mixed_x = x + strength * (quantized(x) - x)
    x = x.clone().requires_grad_()
    y, dy = layer(x), torch.randn(5, 17)
    y.backward(dy)
    torch.testing.assert_close(y, F.linear(mixed_x, mixed_w, layer.bias))
    torch.testing.assert_close(x.grad, dy @ mixed_w)
    torch.testing.assert_close(layer.weight.grad, dy.T @ mixed_x)


def test_at_1_it_is_on_integers_again():
    layer, x = layer_and_input()
    whole = layer(x)
    set_quantization_strength(layer, 1 - 1e-7)
    torch.testing.assert_close(layer(x), whole, rtol=1e-4, atol=1e-5)
    set_quantization_strength(layer, 1)
    assert torch.equal(layer(x), whole)
    assert not layer._buffers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype):
    layer, x = layer_and_input(dtype)
    set_quantization_strength(layer, 0.5)
    assert layer(x).dtype == dtype
    assert layer.float()(x).dtype == dtype  # float32 masters
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.float()).dtype == torch.bfloat16


def test_it_is_not_saved_and_packing_is_whole():
    layer, x = layer_and_input()
    names, packed = set(layer.state_dict()), layer.pack()(x)
    set_quantization_strength(layer, 0.5)
    assert set(layer.state_dict()) == names
    assert torch.equal(layer.pack()(x), packed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what torch.compile imports
def test_a_compiled_model_takes_new_strengths_without_compiling_anew():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    layer, x = layer_and_input()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for strength in (0.1, 0.5, 0.9):
        set_quantization_strength(layer, strength)
        torch.testing.assert_close(compiled(x), layer(x))
    assert counter.frame_count == 1


def test_whole_models():
    model = convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    set_quantization_strength(model, 0.5)
    assert model(torch.randn(3, 8)).shape == (3, 4)
    assert [float(layer.strength) for layer in model if isinstance(layer, BitLinear)] == [0.5, 0.5]
    assert sum(isinstance(layer, PackedBitLinear) for layer in pack(model)) == 2


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strengths_out_of_range_change_nothing(strength):
    layer, _ = layer_and_input()
    with pytest.raises(InvalidInput, match="strength: expected a number from 0 to 1, got"):
        set_quantization_strength(layer, strength)
    assert not layer._buffers


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(InvalidInput, match="model: ReLU has no BitLinear"):
        set_quantization_strength(nn.ReLU(), 0.5)
