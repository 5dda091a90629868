"""`PackedBitLinear`: right numbers and checked arguments."""

import numpy as np
import pytest
import torch
from packed_layers import GROUP, IN, KINDS, OUT, codes, make
from torch import nn

from bitnet_jit import PackedBitLinear, reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing import FORMATS


class TestNumbers:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("bias", [True, False])
    def test_output_is_the_reference(self, kind, bias):
        layer, w_q, w_scale = make(kind, bias)
        x = torch.randn(5, IN)
        expected = reference.bit_linear(x, w_q.numpy(), w_scale.numpy(), layer.bias if bias else None, layer.group_size)
        np.testing.assert_array_equal(layer(x).numpy(), expected)

    @pytest.mark.parametrize("rows", [1, 5])
    def test_activations_quantized_by_groups(self, rows):
        layer, w_q, w_scale = make("group", activation="a8g")
        x = torch.randn(rows, IN)
        expected = reference.bit_linear_a8g(x, w_q.numpy(), w_scale.numpy(), layer.bias, GROUP)
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
            ({"activation": "a8g"}, "activation: 'a8g' goes with scale='group', got scale='tensor'"),
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
        """Refuse other widths with the same packed shape."""
        layer = PackedBitLinear(in_features, 96, format=format, use_rms_norm=norm)
        assert layer(torch.ones(2, in_features)).shape == (2, 96)
        for width in set(range(130, 180)) - {in_features}:
            for shape in ((width,), (2, width), (2, 3, width), (0, width)):
                with pytest.raises(InvalidInput, match=rf"x: expected .*\(\.\.\., {in_features}\), got .*{width}"):
                    layer(torch.ones(shape))

    def test_unknown_scale(self):
        with pytest.raises(InvalidInput, match="scale: .*'column'"):
            PackedBitLinear(IN, OUT, scale="column")
