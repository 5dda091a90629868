"""torch's encoders, which read their layers' weights in eval mode without gradients, compute with ternary layers."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from bitnet_jit import BitLinear, LoraLinear, add_lora, convert, pack
from bitnet_jit.errors import InvalidInput

WIDTH, MIDDLE, TOKENS = 32, 48, 5
MASK = torch.arange(TOKENS) >= torch.tensor([[5], [3], [2]])  # padding, on the right
OPTIONS = [{}, {"norm_first": True, "activation": "gelu"}, {"bias": False}, {"activation": nn.GELU()}]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # attention sums in another order in its fast path

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def layer(**options):
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(WIDTH, 4, MIDDLE, dropout=0.0, batch_first=True, **options)


def encoder(**options):
    can_nest = not options.get("norm_first") and options.get("bias", True)
    return nn.TransformerEncoder(layer(**options), 2, nn.LayerNorm(WIDTH), enable_nested_tensor=can_nest)


def packed(model):
    return pack(convert(model))


def adapted(model):
    model = add_lora(packed(model))
    for module in model.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.lora_B.weight, std=0.1)
    return model


def by_torch(model):
    buffer = io.BytesIO()
    torch.save(convert(model), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {
    "converted": convert,
    "packed": packed,
    "adapted": adapted,
    "copied": lambda model: copy.deepcopy(convert(model)),
    "copied, packed": lambda model: copy.deepcopy(packed(model)),
    "pickled": lambda model: pickle.loads(pickle.dumps(packed(model))),
    "saved": by_torch,
    "the layers alone": lambda model: convert(model, include=["*linear?"]),
}


def x():
    return torch.randn(len(MASK), TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def called(model, **options):
    """Return the output where every layer is called: in training mode, as no dropout is left in these models."""
    return model.train()(x(), **options).detach()


def assert_ternary(model, expected, places=slice(None), **options):
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            output = model.eval()(x(), **options)
        torch.testing.assert_close(output[places].detach().clone(), expected[places], **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("make", [layer, encoder])
@pytest.mark.parametrize("way", WAYS)
def test_the_output_is_ternary_in_every_mode(way, make, options):
    dense = make(**options).eval()(x()).detach()
    model = WAYS[way](make(**options))
    expected = called(model)
    assert (expected - dense).abs().max() > 0.05
    assert_ternary(model, expected)
    masked = called(model, src_key_padding_mask=MASK)
    assert_ternary(model, masked, src_key_padding_mask=MASK)


def ternary(linear, kind):
    """Return one of our layers with the weight of a linear one."""
    layer = BitLinear(linear.in_features, linear.out_features)
    layer.load_state_dict(linear.state_dict())
    return {"bit": lambda: layer, "packed": layer.pack, "adapted": lambda: LoraLinear(layer.pack())}[kind]()


@pytest.mark.parametrize("which", ["both", "the second"])
@pytest.mark.parametrize("make", [layer, encoder])
@pytest.mark.parametrize("kind", ["bit", "packed", "adapted"])
def test_a_layer_that_is_assigned_by_hand_is_called(kind, make, which):
    model = make()
    layers = [model] if make is layer else list(model.layers)
    for each in layers if which == "both" else layers[-1:]:
        each.linear1 = ternary(each.linear1, kind)
        each.add_module("linear2", ternary(each.linear2, kind))
    assert_ternary(model, called(model))
    # torch's encoder may leave zeros where there is padding
    expected = called(model, src_key_padding_mask=MASK)
    assert_ternary(model, expected, places=~MASK, src_key_padding_mask=MASK)


class Wrapper(nn.Module):
    """A wrapper that passes the tensors of its layer on, as those of peft and FSDP do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    weight = property(lambda self: self.inner.weight)
    bias = property(lambda self: self.inner.bias)

    def forward(self, x):
        return self.inner(x)


def test_a_layer_inside_a_wrapper_is_called():
    model = layer()
    model.linear1 = Wrapper(ternary(model.linear1, "bit"))
    assert_ternary(model, called(model))


@pytest.mark.parametrize("way", ["converted", "packed"])
def test_nested_inputs(way):
    model, parts = WAYS[way](layer()).eval(), [x()[0], x()[1, :2]]
    with torch.no_grad():
        outputs = model(torch.nested.nested_tensor(parts)).unbind()
        for part, one in zip(parts, outputs, strict=True):
            torch.testing.assert_close(one, model(part[None])[0], **CLOSE)


def test_a_compiled_encoder():
    model = packed(encoder()).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x()), model(x()), **CLOSE)


def test_dense_encoders_keep_their_fast_path():
    model = nn.Sequential(encoder(), nn.Linear(WIDTH, 3))
    convert(model, include=["1"])
    assert model[0].layers[0].activation_relu_or_gelu
    assert model[0].use_nested_tensor


def test_torchs_attention_takes_no_layer_that_it_would_not_call():
    attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    with pytest.raises(InvalidInput, match="out_proj"):
        attention.out_proj = BitLinear(WIDTH, WIDTH)
    assert type(attention.out_proj) is not BitLinear


def test_a_packed_output_projection_of_torchs_attention_has_the_ternary_weight():
    attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True).eval()
    plain = copy.deepcopy(attention)
    attention.out_proj = ternary(attention.out_proj, "packed")
    plain.out_proj.weight.data = attention.out_proj.dequantize()
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            torch.testing.assert_close(attention(x(), x(), x())[0], plain(x(), x(), x())[0], **CLOSE)


class Mixer(nn.Module):
    """A mixer as Mamba's: one layer is called, the weight of the other is read."""

    def __init__(self):
        super().__init__()
        self.x_proj, self.dt_proj = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x):
        return (self.dt_proj.weight @ self.x_proj(x).transpose(1, 2)).transpose(1, 2)


def test_layers_whose_weight_is_read_are_left_dense_unless_they_are_asked_for():
    model = convert(nn.Sequential(Mixer(), nn.Linear(WIDTH, 3)))
    assert [type(layer) for layer in (model[0].x_proj, model[0].dt_proj, model[1])] == [BitLinear, nn.Linear, BitLinear]
    before = model(x())
    assert torch.equal(pack(model)(x()), before)
    assert type(convert(Mixer(), exclude=[]).dt_proj) is BitLinear
