"""`PackedBitLinear` as a holder of tensors: its state_dict, and moves between dtypes, layouts and processes."""

import copy
import io
import pickle

import pytest
import torch
from packed_layers import GROUP, IN, KINDS, OUT, make
from torch import nn

from bitnet_jit import PackedBitLinear
from bitnet_jit.kernels import registry
from bitnet_jit.packing import CANONICAL, FORMATS


@pytest.fixture
def other_layout(monkeypatch):
    """Return a function: once called, every device wants canonical weights, as a device of another backend may."""
    return lambda: monkeypatch.setattr(registry, "preferred_layout", lambda format, device_type: CANONICAL[format])


class TestStateDict:
    @pytest.mark.parametrize("format", FORMATS)
    def test_it_is_canonical_whatever_the_layout(self, format):
        layer, w_q, w_scale = make(format=format)
        state = layer.state_dict()
        assert list(state) == ["w_packed", "w_scale", "bias"]
        assert torch.equal(state["w_packed"], FORMATS[format].pack(w_q))
        assert torch.equal(state["w_scale"], w_scale)
        assert state["w_packed"].is_contiguous()

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_round_trip(self, device, kind):
        layer, _, _ = make(kind)
        group_size = GROUP if kind == "group" else 0
        other = PackedBitLinear(IN, OUT, device=device, scale=kind, group_size=group_size)
        other.load_state_dict(layer.state_dict(), assign=device == "meta")
        x = torch.randn(3, IN)
        assert torch.equal(other(x), layer(x))
        assert other.layout == layer.layout
        assert not other.w_packed.requires_grad

    def test_loading_without_assign_keeps_the_parameters(self):
        layer, other = make()[0], make()[0]
        before = other.w_packed
        other.load_state_dict(layer.state_dict())
        assert other.w_packed is before
        assert torch.equal(other.w_packed, layer.w_packed)

    @pytest.mark.parametrize("assign", [False, True])
    @pytest.mark.parametrize(
        ("name", "tensor", "words"),
        [
            ("w_packed", torch.zeros(OUT, 17, dtype=torch.uint8), r"1\.w_packed: .*\(37, 18\).*\(37, 17\)"),
            ("w_packed", torch.zeros(OUT, 18), r"1\.w_packed: .*float32"),
            ("w_packed", torch.full((OUT, 18), 3, dtype=torch.uint8), r"1\.w_packed: .*code 3"),
            ("w_scale", torch.ones(1), r"1\.w_scale: .*\(\), got .*\(1,\)"),
            ("w_scale", torch.tensor(1.0).bfloat16(), r"1\.w_scale: .*bfloat16"),
            ("w_scale", torch.tensor(torch.nan), r"1\.w_scale: .*nan"),
            ("bias", torch.ones(OUT + 1), r"size mismatch for 1\.bias"),
        ],
    )
    def test_wrong_tensors_are_named(self, assign, name, tensor, words):
        model = nn.Sequential(nn.ReLU(), make()[0])
        before = model.state_dict()
        with pytest.raises(RuntimeError, match=words):
            model.load_state_dict({**before, f"1.{name}": tensor}, assign=assign)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key])

    def test_missing_and_unexpected_tensors(self):
        layer = make()[0]
        state = layer.state_dict()
        with pytest.raises(RuntimeError, match="Missing.*w_packed"):
            layer.load_state_dict({name: state[name] for name in ("w_scale", "bias")})
        with pytest.raises(RuntimeError, match="Unexpected.*weight"):
            layer.load_state_dict({**state, "weight": torch.ones(1)})
        assert layer.load_state_dict({}, strict=False).missing_keys == list(state)

    def test_safetensors(self, tmp_path):
        from safetensors.torch import load_file, load_model, save_file, save_model

        model, other = (nn.Sequential(make()[0], make("row", format="t5")[0]) for _ in range(2))
        save_model(model, str(tmp_path / "model.safetensors"))
        load_model(other, str(tmp_path / "model.safetensors"))
        save_file(other.state_dict(), tmp_path / "state.safetensors")
        for name, tensor in load_file(tmp_path / "state.safetensors").items():
            assert torch.equal(tensor, model.state_dict()[name])
        x = torch.randn(2, IN)
        assert torch.equal(other[0](x), model[0](x))

    def test_torch_save_of_the_state(self):
        layer, other, file = make()[0], make()[0], io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other.w_packed, layer.w_packed)


CONVERSIONS = {
    "half": lambda layer: layer.half(),
    "bfloat16": lambda layer: layer.bfloat16(),
    "float": lambda layer: layer.float(),
    "to dtype": lambda layer: layer.to(torch.bfloat16),
    "type": lambda layer: layer.type(torch.float16),
    "share_memory": lambda layer: layer.share_memory(),
    "cpu": lambda layer: layer.cpu(),
}


class TestMoves:
    @pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_no_conversion_touches_weight_or_scale(self, convert, kind):
        layer, _, w_scale = make(kind)
        w_packed, parameters = layer.w_packed.clone(), list(layer.parameters())
        assert convert(nn.Sequential(layer))[0] is layer
        assert torch.equal(layer.w_packed, w_packed)
        assert torch.equal(layer.w_scale, w_scale)
        assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))

    def test_the_bias_is_converted_as_in_nn_linear(self):
        layer = make()[0].half()
        assert layer.bias.dtype == torch.float16
        assert layer(torch.ones(2, IN)).dtype == torch.float32

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_move_lays_the_weight_for_the_new_device(self, format, other_layout):
        layer, x = make(format=format)[0], torch.randn(3, IN)
        expected, state = layer(x), layer.state_dict()
        other_layout()
        layer.cpu()
        assert layer.layout == format
        assert torch.equal(layer.w_packed, state["w_packed"])
        assert torch.equal(layer(x), expected)

    @pytest.mark.parametrize("swap", [False, True])
    def test_a_shared_weight_is_laid_once(self, swap, other_layout):
        first, second = make()[0], make()[0]
        second.w_packed = first.w_packed
        model, x = nn.Sequential(first, nn.ReLU(), nn.ConstantPad1d((0, IN - OUT), 0.0), second), torch.randn(3, IN)
        expected = model(x)
        other_layout()
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(swap)
        try:
            model.cpu()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)
        assert first.w_packed is second.w_packed
        assert [first.layout, second.layout] == ["i2", "i2"]
        assert torch.equal(model(x), expected)

    @pytest.mark.parametrize("format", FORMATS)
    def test_to_meta_and_back(self, format):
        layer, other = make(format=format)[0], make(format=format)[0]
        layer.to("meta")
        assert layer(torch.ones(3, IN, device="meta")).shape == (3, OUT)
        layer.to_empty(device="cpu").load_state_dict(other.state_dict())
        assert torch.equal(layer.w_packed, other.w_packed)

    def test_weights_put_in_place_from_outside(self):
        """Fill a model from meta as accelerate does."""
        layer, other = PackedBitLinear(IN, OUT, device="meta"), make()[0]
        for name, tensor in other.state_dict().items():
            layer._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        x = torch.randn(3, IN)
        expected = other(x)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
        assert torch.equal(layer(x), expected)
        assert layer.layout == other.layout

    def test_a_copy_shares_no_weights(self):
        layer, x = make()[0], torch.randn(3, IN)
        other = copy.deepcopy(layer)
        expected = layer(x)
        layer.w_packed.data.zero_()
        assert torch.equal(other(x), expected)

    @pytest.mark.parametrize("format", FORMATS)
    def test_pickle_also_to_another_kind_of_device(self, format, other_layout):
        layer, x = make(format=format)[0], torch.randn(3, IN)
        expected, pickled = layer(x), pickle.dumps(layer)
        assert torch.equal(pickle.loads(pickled)(x), expected)
        other_layout()
        loaded = pickle.loads(pickled)
        assert loaded.layout == format
        assert torch.equal(loaded(x), expected)
