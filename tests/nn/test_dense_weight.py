"""`.weight` of a packed layer: its properties, its values when it is read, and that nothing writes it."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from bitnet_jit import BitLinear, LoraLinear, PackedBitLinear, convert, pack
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.dense_weight import DenseWeight
from bitnet_jit.nn.lora_merge import merged

IN, OUT = 20, 6
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plain():
    return BitLinear(IN, OUT).pack()


def grouped():
    codes = torch.randint(-1, 2, (OUT, IN), dtype=torch.int8)
    return PackedBitLinear.from_codes(codes, torch.rand(OUT, 3) + 0.1, group_size=8)


def t5():
    return BitLinear(IN, OUT, bias=False, use_rms_norm=True).pack("t5")


def adapted():
    layer = LoraLinear(BitLinear(IN, OUT).pack(), r=2)
    nn.init.normal_(layer.lora_B.weight)
    return layer


KINDS = [plain, grouped, t5, adapted]


def values(layer):
    """Return the weight that a layer computes with, float32."""
    if isinstance(layer, LoraLinear):
        return layer.base.dequantize() + layer.scaling * (layer.lora_B.weight @ layer.lora_A.weight).detach()
    return layer.dequantize()


@pytest.mark.parametrize("kind", KINDS)
def test_properties_of_the_stand_in(kind):
    layer = kind()
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    assert not isinstance(weight, nn.Parameter)
    assert weight.shape == weight.size() == (OUT, IN) == (layer.out_features, layer.in_features)
    assert weight.dtype == torch.float32
    assert weight.is_floating_point()
    assert weight.device.type == "cpu"
    assert not weight.requires_grad
    assert weight.grad is None
    assert not weight.is_meta
    assert weight.dim() == 2
    assert weight.numel() == weight.data.numel() == OUT * IN
    assert weight.is_contiguous()
    assert weight.data.dtype == weight.detach().dtype == torch.float32
    assert torch.overrides.has_torch_function((weight,))
    assert layer.bias is None or layer.bias.shape == (OUT,)


READS = {
    "linear": lambda w, x: F.linear(x, w),
    "matmul": lambda w, x: x @ w.t(),
    "transposed by hand": lambda w, x: x @ w.data.T,
    "product": lambda w, x: w * 2,
    "reversed": lambda w, x: 1 - w,
    "clone": lambda w, x: w.clone(),
    "a row": lambda w, x: w[1] + 0,
    "chunks": lambda w, x: torch.cat(w.chunk(2)),
    "abs mean": lambda w, x: w.abs().mean(),
    "double": lambda w, x: w.double(),
    "einsum": lambda w, x: torch.einsum("nk,mk->mn", w, x),
    "numpy": lambda w, x: torch.from_numpy(np.asarray(w).copy()),
    "list": lambda w, x: torch.tensor(w.tolist()),
    "norm": lambda w, x: torch.linalg.vector_norm(w, dim=1),
    "copy": lambda w, x: copy.deepcopy(w),
    "copied into": lambda w, x: torch.zeros(OUT, IN).copy_(w),
    "pickle": lambda w, x: pickle.loads(pickle.dumps(w)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", READS)
def test_reading_it_gives_the_numbers_of_the_layer(read, kind):
    layer, x = kind(), torch.randn(3, IN)
    result, expected = READS[read](layer.weight, x), READS[read](values(layer), x)
    assert type(result) is torch.Tensor
    assert not result.requires_grad
    torch.testing.assert_close(result, expected)


def test_gradients_pass_through_it_to_whatever_it_is_multiplied_by():
    layer, x = plain(), torch.randn(3, IN, requires_grad=True)
    F.linear(x, layer.weight, layer.bias).sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand(3, IN))


WRITES = {
    "init": nn.init.normal_,
    "kaiming": nn.init.kaiming_uniform_,
    "of data": lambda w: w.data.normal_(),
    "of a detached one": lambda w: w.detach().zero_(),
    "copy": lambda w: w.copy_(torch.zeros(OUT, IN)),
    "of a row": lambda w: w[0].zero_(),
    "of a view": lambda w: w.view(-1).fill_(1),
    "of the transposed": lambda w: w.t().zero_(),
    "of a chunk": lambda w: w.chunk(2)[0].mul_(2),
    "an element": lambda w: w.__setitem__((0, 0), 1.0),
    "added to": lambda w: w.add_(1),
    "out": lambda w: torch.add(torch.zeros(OUT, IN), 1, out=w),
    "foreach": lambda w: torch._foreach_mul_([w], 2.0),
    "data set": lambda w: setattr(w, "data", torch.zeros(OUT, IN)),
    "a gradient": lambda w: setattr(w, "grad", torch.zeros(OUT, IN)),
    "wants one": lambda w: w.requires_grad_(),
    "wants one, set": lambda w: setattr(w, "requires_grad", True),
    "parameter": nn.Parameter,
    "resized": lambda w: w.resize_(1),
    "shared": lambda w: w.share_memory_(),
    "its address": lambda w: w.data_ptr(),
    "its storage": lambda w: w.untyped_storage(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", WRITES)
def test_writing_is_refused_in_words(write, kind):
    layer = kind()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with torch.no_grad(), pytest.raises(InvalidInput, match="weight: .*packed"):
        WRITES[write](layer.weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_saying_that_it_wants_no_gradient_is_fine():
    layer = plain()
    layer.weight.requires_grad_(False)
    layer.weight.requires_grad = False
    layer.weight.grad = None


@pytest.mark.parametrize("kind", [plain, adapted])
@pytest.mark.parametrize("value", [nn.Parameter(torch.zeros(OUT, IN)), torch.zeros(OUT, IN), None])
def test_another_weight_is_refused(kind, value):
    layer = kind()
    with pytest.raises(InvalidInput, match="setting the weight"):
        layer.weight = value
    with pytest.raises(ValueError, match="weight"):
        parametrize.register_parametrization(layer, "weight", nn.Identity())
    assert "weight" not in dict(layer.named_parameters())


def test_the_bias_of_an_adapted_layer_is_the_packed_layers():
    layer = adapted()
    assert layer.bias is layer.base.bias
    with pytest.raises(InvalidInput, match="setting the bias"):
        layer.bias = nn.Parameter(torch.zeros(OUT))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_no_part_of_the_module(kind):
    layer = kind()
    names = {"w_packed", "w_scale", "bias", "rms_norm.weight"} | {f"lora_{f}.weight" for f in "AB"}
    assert isinstance(layer.weight, DenseWeight)
    assert {name.removeprefix("base.") for name, _ in layer.named_parameters()} <= names
    assert {name.removeprefix("base.") for name in layer.state_dict()} <= names
    assert not list(layer.buffers())
    x, expected = torch.randn(2, IN), layer.weight * 1
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)):
        assert torch.equal(again(x), layer(x))
        assert torch.equal(again.weight * 1, expected)
        assert again.weight.dtype == layer.weight.dtype


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_its_dtype_is_the_one_that_a_float_weight_would_have(dtype, bias):
    layer = BitLinear(IN, OUT, bias=bias).to(dtype)
    packed = layer.pack()
    lora = LoraLinear(copy.deepcopy(packed))
    for change in (lambda m: m, lambda m: m.cpu(), nn.Module.half, nn.Module.float, nn.Module.bfloat16):
        layer, packed, lora = change(layer), change(packed), change(lora)
        assert packed.weight.dtype == (packed.weight * 1).dtype == lora.weight.dtype == layer.weight.dtype
        assert copy.deepcopy(packed).weight.dtype == layer.weight.dtype
        assert packed.w_scale.dtype == torch.float32
        assert torch.equal(packed.weight * 1, packed.dequantize().to(layer.weight.dtype))
    assert BitLinear(IN, OUT, bias=bias, device="meta", dtype=dtype).pack().weight.dtype == dtype
    assert PackedBitLinear(IN, OUT, bias=bias, dtype=dtype).weight.dtype == dtype


def test_its_dtype_survives_merging_and_pickles_of_before():
    layer = LoraLinear(BitLinear(IN, OUT).bfloat16().pack())
    nn.init.constant_(layer.lora_A.weight, 1.0)
    nn.init.constant_(layer.lora_B.weight, 1.0)
    assert merged(layer)[0].weight.dtype == torch.bfloat16
    state = layer.base.__getstate__()
    old = PackedBitLinear.__new__(PackedBitLinear)
    old.__setstate__({name: value for name, value in state.items() if name != "weight_dtype"})
    assert old.weight.dtype == torch.bfloat16  # the bias's


def test_on_meta():
    weight = PackedBitLinear(IN, OUT, device="meta").weight
    assert weight.is_meta
    assert (weight * 1).is_meta
    assert weight.shape == (OUT, IN)


class AsksForDtype(nn.Module):
    """Cast the input to the weight's dtype, as T5's feed-forward layer does."""

    def __init__(self):
        super().__init__()
        self.wi, self.wo = nn.Linear(IN, 32, bias=False), nn.Linear(32, OUT, bias=False)

    def forward(self, x):
        hidden = torch.relu(self.wi(x))
        weight = self.wo.weight
        if isinstance(weight, torch.Tensor) and hidden.dtype != weight.dtype != torch.int8:
            hidden = hidden.to(weight.dtype)
        return self.wo(hidden.to(weight.device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_code_that_casts_to_its_dtype_computes_as_before(dtype):
    model, x = convert(AsksForDtype()).to(dtype), torch.randn(3, IN, dtype=dtype)
    before = model(x)
    model = pack(model)
    assert model(x).dtype == dtype
    assert torch.equal(model(x), before)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), before)


def test_compiled_code_that_multiplies_by_it():
    layer, x = plain(), torch.randn(3, IN)
    compiled = torch.compile(lambda x: F.linear(x, layer.weight), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), F.linear(x, layer.dequantize()))
