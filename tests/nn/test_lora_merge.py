"""`merge_lora`: codes by the NumPy formula, an update of zero changes nothing, and errors leave the model whole."""

import numpy as np
import pytest
import torch
from torch import nn

from bitnet_jit import PackedBitLinear, reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.lora import LoraLinear, add_lora, lora_layers
from bitnet_jit.nn.lora_merge import MergedLayer, MergeReport, merge_lora, merged

IN, OUT, RANK, GROUP = 70, 37, 3, 32
KINDS = [("tensor", "i2"), ("tensor", "t5"), ("row", "i2"), ("row", "t5"), ("group", "i2")]
SHAPES = {"tensor": (), "row": (OUT,), "group": (OUT, 3)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def packed(kind="tensor", format="i2", activation="a8", w_scale=None):
    w_q = torch.randint(-1, 2, (OUT, IN), dtype=torch.int8)
    w_scale = torch.rand(SHAPES[kind]) + 0.1 if w_scale is None else w_scale
    group_size = GROUP if kind == "group" else 0
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(OUT), group_size, activation, format)


def adapted(base, std=0.5):
    layer = LoraLinear(base, RANK, alpha=2.0)
    for factor in (layer.lora_A, layer.lora_B):
        nn.init.normal_(factor.weight, std=std)
    return layer


def formula(layer):
    """Return the codes, and the share of the update that they lose, in float64."""
    w_q, w_scale = (tensor.numpy() for tensor in layer.base.unpack())
    a, b = (factor.weight.detach().double().numpy() for factor in (layer.lora_A, layer.lora_B))
    update = layer.alpha / layer.r * (b @ a)
    wide = np.broadcast_to(reference.expand_scale(w_scale, w_q.shape, layer.base.group_size), w_q.shape)
    wide = wide.astype(np.float64)
    quotient = np.divide(update, wide, out=np.zeros_like(update), where=wide != 0)
    codes = np.clip(np.rint(w_q + quotient), -1, 1)
    return codes, np.linalg.norm((codes - w_q) * wide - update) / np.linalg.norm(update)


@pytest.mark.parametrize(("kind", "format"), KINDS)
def test_codes_are_the_formula_and_the_rest_stays(kind, format):
    base = packed(kind, format, activation="a16")
    model = nn.Sequential(adapted(base).eval())
    codes, lost = formula(model[0])
    before = base.unpack()[0].numpy()
    report = merge_lora(model)
    layer = model[0]
    np.testing.assert_array_equal(layer.unpack()[0].numpy(), codes)
    assert torch.equal(layer.w_scale, base.w_scale)
    assert torch.equal(layer.bias, base.bias)
    assert (layer.format, layer.activation, layer.group_size) == (format, "a16", base.group_size)
    assert not layer.training
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    (done,) = report.layers
    assert (done.name, done.changed, done.codes) == ("0", (codes != before).sum(), OUT * IN)
    assert 0 < done.changed < done.codes
    assert done.lost == pytest.approx(lost, rel=1e-5)


@pytest.mark.parametrize(("kind", "format"), KINDS)
def test_an_update_of_zero_changes_no_bit(kind, format):
    base, x = packed(kind, format), torch.randn(4, IN)
    state, y = {name: tensor.clone() for name, tensor in base.state_dict().items()}, base(x)
    model = add_lora(nn.Sequential(base), r=RANK)
    report = merge_lora(model)
    assert model[0] is base
    assert report.layers == (MergedLayer("0", 0, OUT * IN, 0.0),)
    assert torch.equal(model(x), y)
    for name, tensor in model[0].state_dict().items():
        assert torch.equal(tensor, state[name])


def test_updates_below_half_a_scale_are_lost_and_said_to_be():
    base = packed(w_scale=torch.tensor(0.5))
    layer = LoraLinear(base, 1, alpha=1.0)
    nn.init.constant_(layer.lora_A.weight, 1.0)
    nn.init.constant_(layer.lora_B.weight, 0.249)
    same, done = merged(layer)
    assert same is base
    assert done.lost == pytest.approx(1.0)
    nn.init.constant_(layer.lora_B.weight, 0.251)
    up, done = merged(layer)
    w_q = base.unpack()[0]
    assert torch.equal(up.unpack()[0], (w_q + 1).clamp(max=1))
    assert done.changed == (w_q < 1).sum()


def test_negative_and_zero_scales():
    w_scale = torch.rand(OUT) + 0.1
    w_scale[1::3] *= -1
    w_scale[2::3] = 0
    base = packed("row", w_scale=w_scale)
    layer = adapted(base)
    ternary, done = merged(layer)
    codes, lost = formula(layer)
    np.testing.assert_array_equal(ternary.unpack()[0].numpy(), codes)
    assert torch.equal(ternary.unpack()[0][2::3], base.unpack()[0][2::3])
    assert done.lost == pytest.approx(lost, rel=1e-5)


def test_large_updates_show_in_the_output():
    layer, x = adapted(packed(activation="a16"), std=30.0), torch.randn(4, IN)
    w = merged(layer)[0].dequantize()
    update = layer.scaling * layer.lora_B.weight @ layer.lora_A.weight
    assert torch.equal(w.sign()[update.abs() > 3], update.sign()[update.abs() > 3])
    torch.testing.assert_close(merged(layer)[0](x), x @ w.T + layer.base.bias, rtol=1e-4, atol=1e-4)


def test_autocast_changes_no_code():
    layer = adapted(packed())
    expected = merged(layer)[0].unpack()[0]
    with torch.autocast("cpu", torch.bfloat16):
        codes = merged(layer)[0].unpack()[0]
    assert torch.equal(codes, expected)


def test_half_factors():
    layer = adapted(packed()).bfloat16()
    np.testing.assert_array_equal(merged(layer)[0].unpack()[0].numpy(), formula(layer)[0])


def test_shared_layers_are_merged_once():
    shared = adapted(packed())
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    report = merge_lora(model)
    assert [layer.name for layer in report.layers] == ["a"]
    assert model["a"] is model["b"][0]
    assert isinstance(model["a"], PackedBitLinear)


def test_a_weight_that_two_bases_share_is_left_to_the_other():
    one, two = packed(), packed()
    two.w_packed, two.w_scale = one.w_packed, one.w_scale
    model, before = nn.Sequential(adapted(one), two), two.unpack()[0].clone()
    assert merge_lora(model).changed > 0
    assert torch.equal(two.unpack()[0], before)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda layer: nn.init.constant_(layer.lora_A.weight, torch.nan), r"^2\.lora_A\.weight: .*nan"),
        (lambda layer: nn.init.constant_(layer.lora_B.weight, -torch.inf), r"^2\.lora_B\.weight: .*-inf"),
        (lambda layer: [nn.init.constant_(f.weight, 1e30) for f in (layer.lora_A, layer.lora_B)], "^2: .*overflows"),
        (lambda layer: layer.to("meta"), r"^2\.lora_A\.weight: is on the meta device"),
    ],
)
def test_one_bad_layer_leaves_the_model_whole(damage, words):
    model = nn.Sequential(adapted(packed()), nn.ReLU(), adapted(packed()))
    layers = list(model)
    damage(model[2])
    with pytest.raises(InvalidInput, match=words):
        merge_lora(model)
    assert all(now is before for now, before in zip(model, layers, strict=True))


def test_nothing_to_merge_and_a_layer_by_itself():
    with pytest.raises(InvalidInput, match=r"holds no .*LoraLinear"):
        merge_lora(nn.Sequential(packed()))
    with pytest.raises(InvalidInput, match="model: is a LoraLinear itself"):
        merge_lora(adapted(packed()))


def test_adapters_can_be_added_again():
    model = nn.Sequential(adapted(packed()))
    merge_lora(model)
    x = torch.randn(4, IN)
    y = model(x)
    assert list(lora_layers(add_lora(model))) == ["0"]
    assert torch.equal(model(x), y)


def test_the_report():
    report = MergeReport((MergedLayer("layers.0.q", 5, 1000, 0.5), MergedLayer("layers.0.k", 0, 200, 1.0)))
    assert (report.changed, report.codes) == (5, 1200)
    assert str(report).splitlines() == [
        "layer       codes changed    of  share  update lost",
        "layers.0.q              5  1000  0.50%        50.0%",
        "layers.0.k              0   200  0.00%       100.0%",
        "total                   5  1200  0.42%",
    ]
