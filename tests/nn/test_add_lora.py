"""LoRA on whole models: which parameters are trained and which stay, and the adapters' tensors by themselves."""

import copy
import pickle

import pytest
import torch
from adapted_layers import IN, OUT, RANK, ROWS, adapted, mlp, packed, trainable
from torch import nn

from bitnet_jit import PackedBitLinear, add_lora, convert, lora_state_dict, pack
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora import lora_layers


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
        keys = other.load_state_dict(load_file(tmp_path / "adapters.safetensors"), strict=False)
        assert keys.unexpected_keys == []
        assert all(".base." in name for name in keys.missing_keys)
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
    def test_copies_share_no_tensors(self, duplicate):
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
