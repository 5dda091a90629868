"""Layers that rotate their input: they compute with the unfolded matrix, in every activation mode and by every path."""

import copy
import pickle

import pytest
import torch

from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.nn import LoraLinear, PackedBitLinear, RMSNorm, add_lora, convert, merge_lora, pack
from bitnet_jit.nn.rotation import Rotation, rotation_of

K, N, BLOCK = 96, 20, 32
MODES = [("tensor", "a8"), ("row", "a8"), ("group", "a8"), ("group", "a8g"), ("tensor", "a16"), ("group", "a16")]


def rotation(seed=0, features=K, block=BLOCK):
    """Return a rotation of random signs."""
    generator = torch.Generator().manual_seed(seed)
    return Rotation(torch.randint(0, 2, (features,), generator=generator) * 2.0 - 1, block)


def layer_of(scale="tensor", activation="a16", kind=PackedBitLinear, bias=True, norm=False):
    """Return a layer of random codes that rotates its input."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-1, 2, (N, K), generator=generator, dtype=torch.int8)
    shape = {"tensor": (), "row": (N,), "group": (N, 3)}[scale]
    w_scale = torch.rand(shape, generator=generator) + 0.5
    offset = torch.randn(N, generator=generator) if bias else None
    layer = kind.from_codes(codes, w_scale, offset, 32 if scale == "group" else 0, activation)
    if norm:
        inside = RMSNorm(K)
        torch.nn.init.uniform_(inside.weight, 0.5, 1.5)
        layer.put_inside(inside)
    layer.put_rotation(rotation())
    return layer


def folded(layer):
    """Return the same layer without its rotation."""
    plain = copy.deepcopy(layer)
    del plain._modules["rotation"]
    return plain


@pytest.mark.parametrize(("scale", "activation"), MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [False, True])
def test_a_layer_multiplies_its_rotated_input(scale, activation, dtype, norm):
    layer = layer_of(scale, activation, norm=norm)
    x = torch.randn(2, 3, K).to(dtype)
    before = layer.rms_norm(x) if norm else x
    rotated = reference.hadamard(before.float().reshape(6, K).numpy(), layer.rotation.signs.numpy(), BLOCK)
    plain = folded(layer)
    plain._modules.pop("rms_norm", None)
    assert torch.equal(layer(x), plain(torch.from_numpy(rotated).view(2, 3, K).to(dtype)))
    assert not torch.equal(layer(x), plain(before))


@pytest.mark.parametrize("scale", ["tensor", "row", "group"])
def test_the_weight_is_the_matrix_of_the_unrotated_input(scale):
    layer, x = layer_of(scale), torch.randn(5, K)
    expected = x @ layer.dequantize().T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(layer.weight @ torch.eye(K), layer.dequantize())
    signed = reference.inverse_hadamard(folded(layer).dequantize().numpy(), layer.rotation.signs.numpy(), BLOCK)
    assert torch.equal(layer.dequantize(), torch.from_numpy(signed))
    codes, _ = layer.unpack()
    assert set(codes.unique().tolist()) == {-1, 0, 1}


def test_gradients_are_those_of_the_unfolded_matrix():
    layer, x = layer_of(), torch.randn(5, K, requires_grad=True)
    dy = torch.randn(5, N)
    (gradient,) = torch.autograd.grad(layer(x), x, dy)
    torch.testing.assert_close(gradient, dy @ layer.dequantize(), rtol=1e-4, atol=1e-4)


def test_codes_are_not_rotated_and_refused():
    with pytest.raises(InvalidInput, match="x_q: a layer with Rotation.*block=32.* rotates floats and no codes"):
        layer_of(activation="a8").forward_quantized(torch.ones(K, dtype=torch.int8), torch.ones(()), torch.float32)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_keep_the_rotation(again):
    layer, x = layer_of("group"), torch.randn(3, K)
    assert torch.equal(again(layer)(x), layer(x))
    assert again(layer).half().rotation.signs.dtype == torch.float32


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_tells_signs_and_block(assign):
    layer, x = layer_of(bias=False), torch.randn(3, K)
    state = layer.state_dict()
    assert state["rotation.signs"].shape == (K // BLOCK, BLOCK)
    other = PackedBitLinear(K, N, bias=False, activation="a16")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*rotation\.signs"):
        other.load_state_dict(state, assign=assign)
    other.put_rotation(rotation(2))
    other.load_state_dict(state, assign=assign)
    assert torch.equal(other(x), layer(x))
    for block, words in ((16, ".6, 16. for blocks of 16"), (BLOCK, "floats that are 1 or -1, got -?0.5")):
        other.put_rotation(rotation(block=block))
        wrong = state | {"rotation.signs": state["rotation.signs"] * (1 if block == 16 else 0.5)}
        with pytest.raises(RuntimeError, match=f"rotation.signs: expected {words}"):
            other.load_state_dict(wrong, assign=assign)
    with pytest.raises(RuntimeError, match=r"Missing key.*rotation\.signs"):
        other.load_state_dict(folded(layer).state_dict(), assign=assign)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rotation(torch.ones(96), 3), "block: expected a power of two from 1 to 8192, got 3"),
        (lambda: Rotation(torch.ones(96), 64), r"signs: expected \(K,\) with K a multiple of block=64, got \(96,\)"),
        (lambda: Rotation(torch.ones(2, 32), 32), r"got \(2, 32\)"),
        (lambda: Rotation(torch.ones(0), 1), r"got \(0,\)"),
        (lambda: Rotation(torch.ones(4).long(), 4), "floats that are 1 or -1, got torch.int64"),
        (lambda: Rotation(torch.tensor([1.0, float("nan")]), 2), "got nan"),
        (lambda: layer_of().put_rotation(rotation(features=64)), "rotation: expected in_features=96, got 64"),
    ],
)
def test_a_rotation_that_does_not_fit_is_named(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def test_a_merge_folds_its_update():
    model = torch.nn.Sequential(layer_of(bias=False))
    layer = add_lora(model, r=2, alpha=2.0)[0]
    assert isinstance(layer, LoraLinear)
    target = torch.randint(-1, 2, (N, 1)) * torch.ones(1, K) * 0.3
    layer.lora_A.weight.data = torch.ones(2, K) * 0.15
    layer.lora_B.weight.data = target[:, :1].repeat(1, 2)
    x, before = torch.randn(4, K), layer.base.dequantize()
    update = layer.weight @ torch.eye(K) - before
    torch.testing.assert_close(layer(x), x @ (before + update).T, rtol=1e-4, atol=1e-4)
    base, base_scale = layer.base.unpack()
    merge_lora(model)
    codes, _ = model[0].unpack()
    folded_update = reference.hadamard(update.numpy(), model[0].rotation.signs.numpy(), BLOCK)
    wanted = base + torch.from_numpy(folded_update) / base_scale
    assert torch.equal(codes, wanted.round().clamp(-1, 1).to(torch.int8))


def test_conversions_leave_rotated_layers_alone():
    model, x = torch.nn.Sequential(layer_of(), torch.nn.Linear(N, 4)), torch.randn(3, K)
    expected = model[0](x)
    pack(convert(model))
    assert rotation_of(model[0]) is not None
    assert torch.equal(model[0](x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_table_are_those_that_logits_multiply_by(dtype):
    table = layer_of("group", kind=PackedTable, bias=False)
    rows = table.look_up(torch.tensor([3, 0, N]), dtype)
    assert rows.dtype == dtype
    assert torch.equal(rows[:2], table.dequantize()[[3, 0]].to(dtype))
    assert rows[2].isnan().all()
    hidden = torch.randn(4, K)
    torch.testing.assert_close(table.logits(hidden), hidden @ table.dequantize().T, rtol=1e-4, atol=1e-4)
