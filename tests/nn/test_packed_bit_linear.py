"""`PackedBitLinear`: right numbers, checked arguments, and moves between dtypes, layouts and processes."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from bitnet_jit import PackedBitLinear, reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.packing import CANONICAL, FORMATS

IN, OUT, GROUP = 70, 37, 32
KINDS = ("tensor", "row", "group")


def codes(out_features=OUT, in_features=IN):
    return torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)


def scale(kind):
    return torch.rand({"tensor": (), "row": (OUT,), "group": (OUT, 3)}[kind]) + 0.1


def make(kind="tensor", bias=True, **options):
    """A layer with random weights, and its codes and scale."""
    w_q, w_scale = codes(), scale(kind)
    options |= {"group_size": GROUP} if kind == "group" else {}
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(OUT) if bias else None, **options), w_q, w_scale


def canonical(layer):
    return FORMATS[layer.format].pack(layer.unpack()[0])


@pytest.fixture
def other_layout(monkeypatch):
    """Call it, and every device wants canonical weights from then on, as a device of another backend may."""
    return lambda: monkeypatch.setattr(registry, "preferred_layout", lambda format, device_type: CANONICAL[format])


class TestNumbers:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("bias", [True, False])
    def test_output_is_the_reference(self, kind, bias):
        layer, w_q, w_scale = make(kind, bias)
        x = torch.randn(5, IN)
        expected = reference.bit_linear(x, w_q.numpy(), w_scale.numpy(), layer.bias if bias else None, layer.group_size)
        if kind == "group":  # the sum over groups may run in any order
            np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(layer(x).numpy(), expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_float_activations(self, kind):
        layer, w_q, w_scale = make(kind, activation="a16")
        x = torch.randn(5, IN)
        expected, magnitude = reference.bit_linear_a16_float64(x, w_q, w_scale, layer.bias, layer.group_size)
        assert (np.abs(layer(x).double().numpy() - expected) <= (IN + 4) * 2.0**-23 * magnitude).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_unpack_and_dequantize(self, kind):
        layer, w_q, w_scale = make(kind)
        assert torch.equal(layer.unpack()[0], w_q)
        assert torch.equal(layer.unpack()[1], w_scale)
        wide = reference.expand_scale(w_scale.numpy(), w_q.shape, GROUP).astype(np.float32)
        np.testing.assert_array_equal(layer.dequantize().numpy(), w_q.numpy() * wide)

    def test_from_packed_is_from_codes(self):
        layer, w_q, w_scale = make(format="t5")
        other = PackedBitLinear.from_packed(FORMATS["t5"].pack(w_q), w_scale, layer.bias, in_features=IN, format="t5")
        x = torch.randn(3, IN)
        assert torch.equal(other(x), layer(x))

    def test_tensors_that_are_not_contiguous(self):
        w_q, scales = codes(OUT, 2 * IN)[:, ::2], torch.rand(OUT, 2) + 0.1
        w_packed = FORMATS["i2"].pack(w_q).T.contiguous().T
        layer = PackedBitLinear.from_packed(w_packed, scales[:, 1], in_features=IN)
        expected = PackedBitLinear.from_codes(w_q.contiguous(), scales[:, 1].contiguous())
        assert layer.w_packed.is_contiguous()
        x = torch.randn(3, IN)
        assert torch.equal(layer(x), expected(x))

    def test_negative_scales_turn_the_sign(self):
        layer, w_q, w_scale = make("row", bias=False)
        x = torch.randn(3, IN)
        assert torch.equal(PackedBitLinear.from_codes(w_q, -w_scale)(x), -layer(x))

    def test_a_new_layer_is_zero(self):
        for format in FORMATS:
            layer = PackedBitLinear(IN, OUT, format=format)
            assert not layer.unpack()[0].any()
            assert torch.equal(layer(torch.randn(2, IN)), torch.zeros(2, OUT))

    def test_gradients_reach_the_input_and_a_bias_that_asks(self):
        layer, w_q, w_scale = make()
        layer.bias.requires_grad_()
        x = torch.randn(3, IN, requires_grad=True)
        layer(x).sum().backward()
        assert torch.equal(layer.bias.grad, torch.full((OUT,), 3.0))
        torch.testing.assert_close(x.grad, (w_q * w_scale).sum(0).expand(3, IN))
        assert layer.w_scale.grad is None

    def test_compiled_whole(self):
        torch._dynamo.reset()
        model, x = nn.Sequential(make()[0], nn.ReLU(), nn.Linear(OUT, 2)), torch.randn(4, IN)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), model(x))
        with torch.inference_mode():
            assert torch.equal(compiled(x), model(x))

    def test_repr(self):
        text = "in_features=70, out_features=37, bias=False, format=i2, scale=group of 32, activation=a8"
        assert repr(make("group", bias=False)[0]) == f"PackedBitLinear({text})"


class TestArguments:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"w_q": codes().float()}, "w_q: .*float32"),
            ({"w_q": codes() * 2}, r"w_q: .*-2\.\.2"),
            ({"w_q": codes(1, 2**18 + 1)}, "in_features: .*262145"),
            ({"w_scale": torch.tensor(0.0)}, "w_scale: .*must not be 0"),
            ({"w_scale": torch.tensor(torch.nan)}, "w_scale: .*nan"),
            ({"w_scale": torch.tensor([1.0] * 36 + [torch.inf])}, "w_scale: .*inf"),
            ({"w_scale": torch.tensor(0.5).double()}, "w_scale: .*float64"),
            ({"w_scale": torch.ones(OUT + 1)}, r"w_scale: .*\(37,\), got .*\(38,\)"),
            ({"w_scale": torch.ones(OUT, 3)}, "group_size: .*0 with 'group'"),
            ({"w_scale": torch.ones(OUT, 3), "group_size": 70}, r"w_scale: .*\(37, 1\), got .*\(37, 3\)"),
            ({"w_scale": torch.ones(OUT, 3), "group_size": GROUP, "format": "t5"}, "format: t5 takes no group scales"),
            ({"w_scale": torch.ones(1, 1, 1)}, r"w_scale.*\(1, 1, 1\)"),
            ({"group_size": 4}, "group_size: .*4 with 'tensor'"),
            ({"bias": torch.ones(OUT + 1)}, r"bias: .*\(38,\)"),
            ({"bias": torch.ones(OUT, dtype=torch.int32)}, "bias: .*int32"),
            ({"bias": torch.ones(OUT, device="meta")}, "bias: is on meta, w_packed on cpu"),
            ({"w_scale": torch.ones((), device="meta")}, "w_scale: is on meta, w_packed on cpu"),
            ({"activation": "a4"}, "activation: .*'a4'"),
            ({"format": "i3"}, "packing: .*'i3'"),
        ],
    )
    def test_from_codes(self, changed, words):
        with pytest.raises(InvalidInput, match=words):
            PackedBitLinear.from_codes(**({"w_q": codes(), "w_scale": torch.tensor(0.5)} | changed))

    @pytest.mark.parametrize(
        ("format", "w_packed", "words"),
        [
            ("i2", torch.full((OUT, 18), 255, dtype=torch.uint8), "w_packed: .*code 3"),
            ("t5", torch.full((OUT, 14), 243, dtype=torch.uint8), "w_packed: .*code 3"),
            ("i2", torch.zeros((OUT, 19), dtype=torch.uint8), r"w_packed: .*\(37, 18\).*\(37, 19\)"),
            ("i2", torch.zeros((OUT, 18), dtype=torch.int8), "w_packed: .*int8"),
            ("i2", torch.zeros(OUT, dtype=torch.uint8), r"w_packed.*\(37,\)"),
        ],
    )
    def test_from_packed(self, format, w_packed, words):
        with pytest.raises(InvalidInput, match=words):
            PackedBitLinear.from_packed(w_packed, torch.tensor(0.5), in_features=IN, format=format)

    def test_a_code_of_3_in_the_last_byte_of_many(self):
        w_packed = torch.zeros(3000, 5000, dtype=torch.uint8)
        w_packed[-1, -1] = 0b11000000
        with pytest.raises(InvalidInput, match="w_packed: .*code 3"):
            PackedBitLinear.from_packed(w_packed, torch.tensor(0.5), in_features=20_000)

    def test_zero_is_a_scale_of_rows_and_groups(self):
        for shape, group_size in (((OUT,), 0), ((OUT, 3), GROUP)):
            layer = PackedBitLinear.from_codes(codes(), torch.zeros(shape), group_size=group_size)
            assert torch.equal(layer(torch.randn(2, IN)), torch.zeros(2, OUT))

    @pytest.mark.parametrize("norm", [False, True])
    @pytest.mark.parametrize("format", ["i2", "t5"])
    @pytest.mark.parametrize("in_features", [150, 160])
    def test_inputs_of_another_width(self, in_features, format, norm):
        """Many widths share a packed shape: the layer's own is what counts."""
        layer = PackedBitLinear(in_features, 96, format=format, use_rms_norm=norm)
        assert layer(torch.ones(2, in_features)).shape == (2, 96)
        for width in set(range(130, 180)) - {in_features}:
            for shape in ((width,), (2, width), (2, 3, width), (0, width)):
                with pytest.raises(InvalidInput, match=rf"x: expected .*\(\.\.\., {in_features}\), got .*{width}"):
                    layer(torch.ones(shape))

    def test_unknown_scale(self):
        with pytest.raises(InvalidInput, match="scale: .*'column'"):
            PackedBitLinear(IN, OUT, scale="column")


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
        """As accelerate fills a model that was made on meta."""
        layer, other = PackedBitLinear(IN, OUT, device="meta"), make()[0]
        for name, tensor in other.state_dict().items():
            layer._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        x = torch.randn(3, IN)
        expected = other(x)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
        assert torch.equal(layer(x), expected)
        assert layer.layout == other.layout

    def test_a_copy_has_weights_of_its_own(self):
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
