"""LoRA on packed layers: numbers and gradients against float64, what is trained and what stays, and whole models."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bitnet_jit import PackedBitLinear, convert, load, pack, reference
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora import LoraLinear, add_lora, lora_layers, lora_state_dict

IN, OUT, ROWS, RANK, GROUP = 70, 37, 5, 3, 32
SCALES = {"tensor": (), "row": (OUT,), "group": (OUT, 3)}
EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def packed(in_features=IN, out_features=OUT, kind="tensor", activation="a8", format="i2"):
    w_q = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)
    w_scale = torch.rand(SCALES[kind]) / in_features**0.5 + 0.1
    group_size = GROUP if kind == "group" else 0
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(out_features), group_size, activation, format)


def adapted(r=RANK, **options):
    """A layer whose adapter has been trained already: B is not zero."""
    layer = LoraLinear(packed(**options), r, alpha=6.0)
    nn.init.normal_(layer.lora_B.weight)
    return layer


def mlp(**options):
    return nn.Sequential(packed(IN, 48, **options), nn.ReLU(), packed(48, 10, **options))


def trainable(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def rounded(x, activation):
    """What the base sees of x, float64."""
    if activation == "a16":
        return x.detach().double()
    x_q, x_scale = reference.quantize_activation(x.detach().float().numpy())
    return torch.from_numpy(x_q) * torch.from_numpy(x_scale).double()[:, None]


def run64(layer, x, dy, absolute=False):
    """Output and gradients of x, A and B by autograd in float64; of the magnitudes of all numbers with `absolute`."""
    magnitude = torch.abs if absolute else torch.clone
    seen, w, bias = rounded(x, layer.base.activation), layer.base.dequantize().double(), layer.base.bias.double()
    leaves = [magnitude(t.detach().double()).requires_grad_() for t in (x, layer.lora_A.weight, layer.lora_B.weight)]
    wide_x, a, b = leaves
    straight_through = wide_x + (magnitude(seen) - wide_x).detach()
    y = straight_through @ magnitude(w).T + magnitude(bias) + layer.alpha / layer.r * (wide_x @ a.T) @ b.T
    return y.detach(), *torch.autograd.grad(y, leaves, magnitude(dy.double()))


def assert_numbers(layer, x, dtype):
    """Output and gradients are float64's up to a rounding of each term, of each sum and of what lies between."""
    dy = torch.randn(len(x), layer.out_features).to(dtype)
    x = x.to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    found = y.detach(), *torch.autograd.grad(y, (x, layer.lora_A.weight, layer.lora_B.weight), dy)
    bound = (layer.in_features + layer.out_features + layer.r + 8) * EPS[dtype]
    for tensor, wanted, magnitude in zip(found, run64(layer, x, dy), run64(layer, x, dy, absolute=True), strict=True):
        assert ((tensor.double() - wanted).abs() <= bound * magnitude).all()
    assert found[2].dtype == found[3].dtype == torch.float32


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
        (found,), (wanted,) = (torch.autograd.grad(run(x).sum(), x) for run in (compiled, layer))
        assert torch.equal(found, wanted)


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


class TestAddLora:
    def test_only_the_adapters_are_trained(self):
        model = nn.Sequential(nn.Embedding(7, IN), mlp(), nn.LayerNorm(10))
        assert add_lora(model) is model
        assert trainable(model) == [f"1.{i}.{factor}.weight" for i in (0, 2) for factor in ("lora_A", "lora_B")]

    def test_patterns(self):
        model = add_lora(nn.Sequential(mlp(), mlp()), include=["1.*"], exclude=["*.2"])
        assert list(lora_layers(model)) == ["1.0"]

    def test_a_layer_of_several_names_is_wrapped_once(self):
        shared = packed(IN, IN)
        model = add_lora(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": packed(IN, IN)}))
        assert model["a"] is model["b"][0]
        assert model["a"].base is shared
        assert list(lora_layers(model)) == ["a", "c"]

    def test_exclude_reaches_all_names_of_a_layer(self):
        shared = packed(IN, IN)
        model = add_lora(nn.ModuleDict({"a": shared, "b": shared, "c": packed()}), exclude=["b"])
        assert list(lora_layers(model)) == ["c"]

    def test_a_second_call_adapts_the_rest(self):
        model = add_lora(mlp(), r=2, include=["0"])
        first = model[0]
        first.lora_A.weight.requires_grad_(False)
        add_lora(model, r=5)
        assert model[0] is first
        assert isinstance(first.base, PackedBitLinear)
        assert trainable(model) == ["0.lora_B.weight", "2.lora_A.weight", "2.lora_B.weight"]
        assert model[2].r == 5
        with pytest.raises(InvalidInput, match="out of 0"):
            add_lora(model)

    def test_a_layer_by_itself(self):
        base = packed().eval()
        layer = add_lora(base)
        assert layer.base is base
        assert not layer.training

    def test_convert_leaves_the_factors_alone(self):
        model = nn.Sequential(add_lora(mlp()), nn.Linear(10, 4))
        assert list(lora_layers(convert(model))) == ["0.0", "0.2"]
        assert lora_state_dict(pack(model)).keys() == lora_state_dict(model).keys()
        assert type(model[0][0].lora_A).__name__ == "Factor"

    @pytest.mark.parametrize("format", ["i2", "t5"])
    def test_training_learns_and_touches_no_base(self, format):
        model = add_lora(mlp(format=format), r=4, dropout=0.1)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".base." in name}
        x, target = torch.randn(64, IN), torch.randn(64, 10)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses = []
        for _ in range(40):
            loss = (model(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]
        assert len(before) == 6
        for name, tensor in before.items():
            assert torch.equal(model.state_dict()[name], tensor)


class TestState:
    def test_adapters_alone_go_round(self, tmp_path):
        from safetensors.torch import load_file, save_file

        model, x = add_lora(mlp(), r=RANK), torch.randn(ROWS, IN)
        other = copy.deepcopy(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter)
        save_file(lora_state_dict(model), tmp_path / "adapters.safetensors")
        found = other.load_state_dict(load_file(tmp_path / "adapters.safetensors"), strict=False)
        assert found.unexpected_keys == []
        assert all(".base." in name for name in found.missing_keys)
        assert torch.equal(other(x), model(x))

    def test_names_are_those_of_the_state_dict(self):
        shared = packed(IN, IN)
        model = add_lora(nn.ModuleDict({"a": shared, "b": shared}))
        assert list(lora_state_dict(model)) == ["a.lora_A.weight", "a.lora_B.weight"]
        assert lora_state_dict(model).keys() < model.state_dict().keys()
        assert list(lora_state_dict(model["a"])) == ["lora_A.weight", "lora_B.weight"]

    def test_no_adapters(self):
        with pytest.raises(InvalidInput, match=r"Sequential has no LoraLinear; bitnet_jit\.add_lora"):
            lora_state_dict(mlp())

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
    def test_copies_are_of_their_own(self, duplicate):
        layer, x = adapted(), torch.randn(ROWS, IN)
        other, expected = duplicate(layer), layer(x)
        with torch.no_grad():
            layer.lora_B.weight.zero_()
        assert torch.equal(other(x), expected)

    def test_conversion_takes_the_factors_along(self):
        layer = adapted().bfloat16()
        assert layer.lora_A.weight.dtype == torch.bfloat16
        assert layer.base.w_scale.dtype == torch.float32
        assert layer(torch.randn(ROWS, IN)).dtype == torch.float32

    def test_meta(self):
        model = add_lora(nn.Sequential(PackedBitLinear(IN, OUT, device="meta")), r=RANK)
        assert all(tensor.is_meta for tensor in lora_state_dict(model).values())
        assert model(torch.ones(2, IN, device="meta")).shape == (2, OUT)
