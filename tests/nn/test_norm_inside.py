"""Linear layers with a norm inside: trained and packed agree bit for bit, gradients are the estimator's."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bitnet_jit import (
    BitLinear,
    PackedBitLinear,
    RMSNorm,
    add_lora,
    convert,
    merge_lora,
    pack,
    reference,
    set_quantization_strength,
)
from bitnet_jit.errors import InvalidInput
from bitnet_jit.tuning.problems import problems_of_model
from bitnet_jit.tuning.recording import recorded

IN, OUT, EPS = 70, 37, 1e-5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normed(in_features=IN, out_features=OUT, seed=0, **options):
    """Return a layer whose norm's weight is not one."""
    torch.manual_seed(seed)
    layer = BitLinear(in_features, out_features, use_rms_norm=True, rms_norm_eps=EPS, **options)
    with torch.no_grad():
        layer.rms_norm.weight.uniform_(0.5, 2.0)
    return layer


def codes_of(layer, x):
    """Return codes and scales of the normalized rows, by an op with separate tests."""
    return torch.ops.bitnet_jit.rms_norm_quantize(x.detach(), layer.rms_norm.weight.detach(), EPS)


@given(
    in_features=st.integers(1, 90),
    out_features=st.integers(1, 40),
    leading=st.sampled_from([(), (0,), (1,), (3,), (2, 3)]),
    seed=st.integers(0, 99),
    bias=st.booleans(),
)
def test_the_output_is_the_reference_of_normalized_codes(in_features, out_features, leading, seed, bias):
    layer, x = normed(in_features, out_features, seed, bias=bias), torch.randn(*leading, in_features)
    x_q, x_scale = (tensor.numpy() for tensor in codes_of(layer, x))
    w_q, w_scale = reference.quantize_weight(layer.weight.detach())
    y = reference.quantized_linear(
        x_q.reshape(-1, in_features), x_scale.reshape(-1), w_q, w_scale, layer.bias.detach() if bias else None
    )
    output = layer(x)
    np.testing.assert_array_equal(output.detach().reshape(-1, out_features).numpy(), y)
    packed = layer.pack()
    assert torch.equal(packed(x), output)
    with torch.inference_mode():
        assert torch.equal(packed(x), output)


@pytest.mark.parametrize("format", ["i2", "t5"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_is_trained_in_every_dtype_and_under_autocast(dtype, format):
    layer, x = normed(dtype=dtype), torch.randn(3, IN).to(dtype)
    packed, y = layer.pack(format), layer(x)
    assert y.dtype == dtype
    assert packed.rms_norm.weight.dtype == dtype
    assert torch.equal(packed(x), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(x), layer(x))
        assert packed(x).dtype == torch.bfloat16


def test_float_activations_are_normalized_too():
    layer, x = PackedBitLinear(IN, OUT, use_rms_norm=True, rms_norm_eps=EPS, activation="a16"), torch.randn(3, IN)
    layer.load_state_dict(normed().pack().state_dict())
    expected = F.linear(layer.rms_norm(x), layer.dequantize(), layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_activations_quantized_by_groups_are_normalized_too():
    options = {"scale": "group", "group_size": 32, "use_rms_norm": True, "rms_norm_eps": EPS}
    layer, x = PackedBitLinear(IN, OUT, activation="a8g", **options), torch.randn(3, IN)
    alone = PackedBitLinear.from_codes(
        torch.randint(-1, 2, (OUT, IN), dtype=torch.int8), torch.ones_like(layer.w_scale), torch.zeros(OUT), 32, "a8g"
    )
    layer.load_state_dict(layer.state_dict() | alone.state_dict())
    assert torch.equal(layer(x), alone(layer.rms_norm(x)))
    assert layer(x).abs().sum() > 0


def estimator(layer, x, dy, absolute=False):
    """Return gradients of x, weight, bias and the norm's weight in float64; of all magnitudes with `absolute`."""
    size = np.abs if absolute else np.asarray
    x, g, dy = (size(t.detach().double().numpy()) for t in (x, layer.rms_norm.weight, dy))
    r = 1 / np.sqrt(np.square(x).mean(1, keepdims=True) + EPS)
    x_q, x_scale = (tensor.double().numpy() for tensor in codes_of(layer, torch.from_numpy(x).float()))
    w_q, w_scale = reference.quantize_weight(layer.weight.detach())
    inner = dy @ size(w_q * np.float64(w_scale))
    back = r**2 * (inner * g * x).mean(1, keepdims=True) * x
    dx = r * (inner * g + back if absolute else inner * g - back)
    return dx, dy.T @ (size(x_q) * x_scale[:, None]), dy.sum(0), (inner * x * r).sum(0)


@given(rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_gradients_are_the_straight_through_estimators(rows, seed):
    layer, x = normed(20, 7, seed), torch.randn(rows, 20, requires_grad=True)
    dy = torch.randn(rows, 7)
    layer(x).backward(dy)
    gradients = (x.grad, layer.weight.grad, layer.bias.grad, layer.rms_norm.weight.grad)
    bounds = estimator(layer, x, dy, absolute=True)
    for gradient, expected, magnitude in zip(gradients, estimator(layer, x, dy), bounds, strict=True):
        error = np.abs(gradient.double().numpy() - expected)
        np.testing.assert_array_less(error, 64 * 2.0**-23 * magnitude + 1e-30)


def test_gradients_of_the_packed_layer_are_those_of_the_trained_one():
    layer, dy = normed(), torch.randn(4, OUT)
    packed = layer.pack()
    packed.rms_norm.requires_grad_(True)
    packed.bias.requires_grad_(True)
    xs = [torch.randn(4, IN, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    for x, run in zip(xs, (layer, packed), strict=True):
        run(x).backward(dy)
    torch.testing.assert_close(xs[1].grad, xs[0].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.rms_norm.weight.grad, layer.rms_norm.weight.grad, rtol=1e-4, atol=1e-4)
    assert torch.equal(packed.bias.grad, layer.bias.grad)


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_only_the_gradients_asked_for(wanted):
    layer, x = normed(), torch.randn(3, IN, requires_grad=wanted[0])
    layer.rms_norm.requires_grad_(wanted[1])
    layer(x).sum().backward()
    assert (x.grad is not None, layer.rms_norm.weight.grad is not None) == wanted
    assert layer.weight.grad.any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what torch.compile imports
def test_compiled_training_is_eager_training():
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model = nn.Sequential(normed(), nn.ReLU(), normed(OUT, 5, seed=1))
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(6, IN, generator=torch.Generator().manual_seed(2))
        for _ in range(3):
            optimizer.zero_grad()
            run(x).square().sum().backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    for result, expected in zip(*results, strict=True):
        assert torch.equal(result, expected)


def test_names_copies_and_modes():
    layer = normed().eval()
    assert list(layer.state_dict()) == ["weight", "bias", "rms_norm.weight"]
    packed = layer.pack()
    assert list(packed.state_dict()) == ["w_packed", "w_scale", "bias", "rms_norm.weight"]
    assert not any(parameter.requires_grad for parameter in packed.parameters())
    assert not packed.rms_norm.training
    assert layer.rms_norm.weight.requires_grad
    x = torch.randn(2, IN)
    other = PackedBitLinear(IN, OUT, use_rms_norm=True, rms_norm_eps=EPS)
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), packed(x))
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))
    with torch.no_grad():
        layer.rms_norm.weight.zero_()
    assert torch.equal(other(x), packed(x))
    assert BitLinear(IN, OUT, device="meta", use_rms_norm=True).pack()(x.to("meta")).shape == (2, OUT)


def test_a_plain_layer_has_none():
    assert "rms_norm" not in dict(BitLinear(IN, OUT).named_modules())
    assert "rms_norm" not in dict(BitLinear(IN, OUT).pack().named_modules())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BitLinear(IN, OUT, use_rms_norm=True, rms_norm_eps=-1.0), r"eps: .*-1\.0"),
        (lambda: PackedBitLinear(IN, OUT, use_rms_norm=True, rms_norm_eps=float("nan")), "eps: .*nan"),
        (lambda: PackedBitLinear(IN, OUT).put_inside(RMSNorm(IN + 1)), "norm: expected hidden_size=70, got 71"),
        (
            lambda: torch.ops.bitnet_jit.bit_linear_train(torch.ones(2, 4), torch.ones(3, 4), None, torch.ones(5), EPS),
            r"norm_weight: .*\(4,\), got .*\(5,\)",
        ),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


class TestModels:
    def test_convert_puts_one_into_each_layer(self):
        model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8, bias=False, dtype=torch.bfloat16), nn.Linear(8, 4))
        tied = model[0]
        convert(model, exclude=["2"], use_rms_norm=True, rms_norm_eps=EPS)
        assert [tuple(m.rms_norm.weight.shape) for m in model[:2]] == [(8,), (16,)]
        assert model[1].rms_norm.weight.dtype == torch.bfloat16
        assert model[0] is tied
        assert type(model[2]) is nn.Linear

    def test_convert_with_a_wrong_eps_changes_nothing(self):
        model = nn.Sequential(nn.Linear(8, 16))
        with pytest.raises(InvalidInput, match=r"eps: .*-2\.0"):
            convert(model, use_rms_norm=True, rms_norm_eps=-2.0)
        assert type(model[0]) is nn.Linear

    def test_a_layer_of_two_names_has_one_norm(self):
        shared = nn.Linear(8, 8)
        model = convert(nn.ModuleDict({"a": shared, "b": shared}), use_rms_norm=True)
        assert model["a"].rms_norm is model["b"].rms_norm
        assert pack(model)["a"] is model["b"]

    def test_a_strength_of_zero_is_the_dense_layer_behind_its_norm(self):
        layer, x = normed(), torch.randn(3, IN)
        set_quantization_strength(layer, 0.0)
        assert torch.equal(layer(x), F.linear(layer.rms_norm(x), layer.weight, layer.bias))
        set_quantization_strength(layer, 1.0)
        assert torch.equal(layer(x), layer.pack()(x))

    def test_lora_adds_to_the_normalized_input(self):
        packed, x = normed().pack(), torch.randn(3, IN)
        model = add_lora(nn.Sequential(packed), r=2)
        layer = model[0]
        for factor in (layer.lora_A, layer.lora_B):
            nn.init.normal_(factor.weight)
        update = layer.scaling * F.linear(F.linear(packed.rms_norm(x), layer.lora_A.weight), layer.lora_B.weight)
        torch.testing.assert_close(model(x), packed(x) + update)
        assert merge_lora(model).changed > 0
        assert model[0].rms_norm is packed.rms_norm
        assert not torch.equal(model(x), packed(x))

    def test_its_problems_are_those_that_it_asks_for(self):
        packed = normed().pack()
        problems = problems_of_model(nn.Sequential(packed), [3])
        assert Counter(problem.op for problem in problems) == {"rms_norm_quantize": 1, "quantized_linear": 1}
        layer = copy.deepcopy(packed).to("meta")
        layer.stay_on_meta(packed)
        with recorded(torch.device("cpu")) as asked:
            layer(torch.empty(3, IN, device="meta"))
        assert asked == problems
