"""`convert` and `pack`: which layers they take, what stays shared, and what an error leaves behind."""

import pytest
import torch
from torch import nn

from bitnet_jit import BitLinear, PackedBitLinear, convert, pack
from bitnet_jit.errors import InvalidInput


class Language(nn.Module):
    """A minimal language model, its head tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(16, 32), "down": nn.Linear(32, 16, bias=False)}) for _ in range(2)
        )
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lm_head = nn.Linear(16, 50, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        for layer in self.layers:
            x = x + layer["down"](layer["up"](x).relu())
        return self.lm_head(x)


LAYERS = ["layers.0.up", "layers.0.down", "layers.1.up", "layers.1.down"]
IDS = torch.arange(12).reshape(3, 4)


def names(model, kind):
    return [name for name, module in model.named_modules() if type(module) is kind]


class TestConvert:
    @pytest.mark.parametrize(
        ("include", "exclude", "expected"),
        [
            (None, None, LAYERS),
            (None, [], [*LAYERS, "lm_head"]),
            (["*"], ["*.down", "lm_head"], [LAYERS[0], LAYERS[2]]),
            (["layers.1.*"], None, LAYERS[2:]),
            (["layers.?.up", "lm_head"], [], [LAYERS[0], LAYERS[2], "lm_head"]),
            (["layers.[0].*"], ["layers.*.up"], [LAYERS[1]]),
            (iter(["layers.0.up"]), None, [LAYERS[0]]),
        ],
    )
    def test_patterns(self, include, exclude, expected):
        model = Language()
        assert convert(model, include, exclude) is model
        assert names(model, BitLinear) == expected

    def test_layers_and_parameters_stay_the_same_objects(self):
        model = Language()
        layer, parameters = model.layers[0]["up"], list(model.parameters())
        calls = []
        layer.register_forward_hook(lambda *_: calls.append(1))
        convert(model.eval())
        assert model.layers[0]["up"] is layer
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        model(IDS)
        assert calls == [1]
        assert not layer.training

    def test_a_subclass_of_nn_linear_stays(self):
        model = convert(Language())
        assert type(model.attention.out_proj) is nn.modules.linear.NonDynamicallyQuantizableLinear

    def test_a_linear_layer_itself(self):
        layer = nn.Linear(8, 4)
        assert convert(layer) is layer
        assert type(layer) is BitLinear

    def test_a_converted_model_trains(self):
        model = convert(Language(), exclude=[])
        model(IDS).square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"include": ["layers.*", "layer.7.*"]}, "include: .*'layer.7.*'.*layers.0.up"),
            ({"exclude": ["lm_haed"]}, "exclude: .*'lm_haed'"),
            ({"include": "layers.*"}, "include: .*string 'layers"),
            ({"exclude": ["*"]}, "model: .*Language.*5"),
        ],
    )
    def test_a_pattern_without_a_match_is_named_and_nothing_changes(self, arguments, words):
        model = Language()
        with pytest.raises(InvalidInput, match=words):
            convert(model, **arguments)
        assert not names(model, BitLinear)

    def test_no_linear_layer_at_all(self):
        with pytest.raises(InvalidInput, match="model: no nn.Linear of ReLU"):
            convert(nn.ReLU())

    def test_a_layer_too_wide_leaves_the_others_too(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(2**18 + 1, 1, device="meta"))
        with pytest.raises(InvalidInput, match="in_features: .*262145"):
            convert(model)
        assert not names(model, BitLinear)


class TestPack:
    @pytest.mark.parametrize("format", ["i2", "t5"])
    def test_the_output_stays_bit_for_bit(self, format):
        model = convert(Language()).eval()
        expected = model(IDS)
        assert pack(model, format) is model
        assert names(model, PackedBitLinear) == LAYERS
        assert torch.equal(model(IDS), expected)
        assert {model.get_submodule(name).format for name in LAYERS} == {format}

    def test_a_layer_itself(self):
        assert isinstance(pack(BitLinear(8, 4)), PackedBitLinear)

    def test_layers_that_share_a_weight_share_the_packed_one(self):
        model = nn.Sequential(BitLinear(8, 8), nn.ReLU(), BitLinear(8, 8))
        model[2].weight = model[0].weight
        biases = [model[0].bias.clone(), model[2].bias.clone()]
        pack(model)
        assert model[0].w_packed is model[2].w_packed
        assert model[0].w_scale is model[2].w_scale
        assert [torch.equal(model[i].bias, bias) for i, bias in zip((0, 2), biases, strict=True)] == [True, True]
        assert len(list(model.parameters())) == 4

    def test_a_layer_with_two_names_stays_one(self):
        model = nn.Sequential(BitLinear(8, 8), nn.ReLU())
        model.append(model[0])
        pack(model)
        assert model[0] is model[2]
        assert isinstance(model[0], PackedBitLinear)

    def test_a_tied_embedding_keeps_its_weight(self):
        model = convert(Language(), exclude=[])
        before = model.embedding.weight
        pack(model)
        assert model.embedding.weight is before
        assert isinstance(model.lm_head, PackedBitLinear)

    def test_the_float_weights_are_gone(self):
        model = convert(Language(), include=["layers.*"])
        pack(model)
        left = {name for name, parameter in model.layers.named_parameters() if parameter.numel() >= 16 * 32}
        assert not {name for name in left if not name.endswith("w_packed")}

    def test_an_error_names_the_layer_and_changes_nothing(self):
        model = convert(Language())
        model.layers[1]["up"].weight.data[0, 0] = torch.nan
        with pytest.raises(InvalidInput, match=r"layers\.1\.up: w_scale: .*nan"):
            pack(model)
        assert names(model, BitLinear) == LAYERS

    def test_nothing_to_pack(self):
        with pytest.raises(InvalidInput, match=r"model: Linear holds no bitnet_jit.nn.bit_linear.BitLinear"):
            pack(nn.Linear(8, 4))


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 5e-6])
def test_a_dead_layer_is_named_when_it_is_packed(value):
    model = nn.Sequential(BitLinear(8, 4), nn.ReLU(), BitLinear(4, 3))
    nn.init.constant_(model[2].weight, value)
    with pytest.warns(UserWarning, match="^2: is dead: no weight is above 5e-06"):
        pack(model)
    assert torch.equal(model(torch.randn(5, 8)), model[2].bias.expand(5, 3))


def test_a_dead_layer_learns():
    layer, x = BitLinear(8, 4), torch.randn(16, 8)
    nn.init.zeros_(layer.weight)
    target, losses = x[:, :4].sign(), []
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(30):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
