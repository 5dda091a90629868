"""`BitLinear` behaves as nn.Linear does, trains the same eagerly and compiled, and packs without changing a bit."""

import copy
import inspect
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from bitnet_jit import BitLinear, PackedBitLinear, reference
from bitnet_jit.errors import InvalidInput

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Lower(nn.Module):
    """A parametrization of a weight."""

    def forward(self, weight):
        return weight.tril()


def test_signature_of_nn_linear():
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (BitLinear, nn.Linear))
    same, more = list(ours.values())[: len(theirs)], list(ours.values())[len(theirs) :]
    assert [(p.name, p.default, p.kind) for p in same] == [(p.name, p.default, p.kind) for p in theirs.values()]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in more)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_and_repr_of_nn_linear(bias, dtype):
    torch.manual_seed(0)
    theirs = nn.Linear(12, 5, bias, dtype=dtype)
    torch.manual_seed(0)
    ours = BitLinear(12, 5, bias, dtype=dtype)
    assert repr(ours) == repr(theirs).replace("Linear", "BitLinear")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    ours.load_state_dict(nn.Linear(12, 5, bias, dtype=dtype).state_dict())


@pytest.mark.parametrize("shape", [(12,), (3, 12), (2, 0, 12), (2, 3, 4, 12)])
def test_any_leading_dimensions(shape):
    layer, x = BitLinear(12, 5), torch.randn(shape)
    y = layer(x)
    expected = reference.bit_linear(
        x.reshape(-1, 12), *reference.quantize_weight(layer.weight.detach()), layer.bias.detach()
    )
    assert y.shape == (*shape[:-1], 5)
    np.testing.assert_array_equal(y.detach().reshape(-1, 5).numpy(), expected)


def test_input_that_is_not_contiguous():
    layer, x = BitLinear(12, 5), torch.randn(12, 7, 3)
    assert torch.equal(layer(x.permute(2, 1, 0)), layer(x.permute(2, 1, 0).contiguous()))
    assert torch.equal(layer(torch.randn(1, 12).expand(4, 12)).var(0), torch.zeros(5))


def test_meta_and_to_empty():
    layer = BitLinear(12, 5, device="meta")
    assert layer(torch.ones(3, 12, device="meta")).shape == (3, 5)
    packed = layer.pack()
    assert packed.w_packed.is_meta
    other = BitLinear(12, 5)
    layer.to_empty(device="cpu").load_state_dict(other.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(layer(x), other(x))


def test_a_weight_that_is_computed():
    """Take a weight as parametrizations, pruning and sharding leave it: an attribute, and no parameter."""
    layer, x = BitLinear(12, 5), torch.randn(3, 12)
    expected = BitLinear(12, 5)
    expected.load_state_dict({"weight": layer.weight.detach().tril(), "bias": layer.bias.detach()})
    nn.utils.parametrize.register_parametrization(layer, "weight", Lower())
    assert torch.equal(layer(x), expected(x))
    layer(x).sum().backward()
    expected(x).sum().backward()
    assert torch.equal(layer.parametrizations.weight.original.grad, expected.weight.grad.tril())
    assert torch.equal(layer.pack()(x), expected(x))


def test_a_copy_shares_no_weights():
    layer = BitLinear(12, 5)
    other = copy.deepcopy(layer)
    assert type(other) is BitLinear
    other.weight.data.zero_()
    assert layer.weight.any()


@pytest.mark.parametrize(
    ("sizes", "words"), [((0, 4), "in_features: .*0"), ((4, 0), "out_features: .*0"), ((2**18 + 1, 1), "262145")]
)
def test_bad_sizes(sizes, words):
    with pytest.raises(InvalidInput, match=words):
        BitLinear(*sizes, device="meta")


@given(
    in_features=st.integers(1, 150),
    out_features=st.integers(1, 150),
    leading=st.sampled_from([(), (0,), (1,), (3,), (2, 2), (2, 0, 3)]),
    seed=st.integers(0, 2**31),
    bias=st.booleans(),
)
@example(in_features=5003, out_features=130, leading=(3,), seed=0, bias=True)
def test_packed_output_is_the_training_output_bit_for_bit(in_features, out_features, leading, seed, bias):
    torch.manual_seed(seed)
    layer = BitLinear(in_features, out_features, bias).eval()
    x = torch.randn(*leading, in_features) * 10 ** torch.empty(*leading, 1).uniform_(-6, 4)
    packed, y = layer.pack(), layer(x)
    assert torch.equal(packed(x), y)
    with torch.inference_mode():
        assert torch.equal(packed(x), y)


@pytest.mark.parametrize(
    ("format", "x_dtype", "dtype"), [*product(["i2"], DTYPES, DTYPES), ("t5", torch.float32, torch.float32)]
)
def test_packed_output_is_the_training_output_in_every_dtype(format, x_dtype, dtype):
    layer, x = BitLinear(70, 37, dtype=dtype).eval(), torch.randn(3, 70).to(x_dtype)
    packed, y = layer.pack(format), layer(x)
    assert y.dtype == x_dtype
    assert packed.bias.dtype == dtype
    assert torch.equal(packed(x), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(x), layer(x))
        assert layer(x).dtype == torch.bfloat16


def test_packing_keeps_the_mode_and_freezes_a_copy():
    layer = BitLinear(12, 5).eval()
    packed = layer.pack()
    assert isinstance(packed, PackedBitLinear)
    assert not packed.training
    assert layer.train().pack().training
    assert not any(parameter.requires_grad for parameter in packed.parameters())
    before = packed.bias.clone()
    layer.bias.data += 1
    assert torch.equal(packed.bias, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_not_packed(bad):
    layer = BitLinear(12, 5)
    layer.weight.data[3, 4] = bad
    with pytest.raises(InvalidInput, match="w_scale: .*(nan|inf)"):
        layer.pack()


def test_a_weight_that_holds_its_numbers_elsewhere_is_not_packed():
    """Refuse to pack a weight such as a sharded one."""

    class Sharded(torch.Tensor):
        pass

    layer = BitLinear(12, 5)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Sharded))
    with pytest.raises(InvalidInput, match="weight: expected a plain tensor, got a Sharded; gather the model first"):
        layer.pack()


def test_unknown_format():
    with pytest.raises(InvalidInput, match="packing: .*'i3'"):
        BitLinear(12, 5).pack("i3")


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(BitLinear(16, 32), nn.SiLU(), BitLinear(32, 32, bias=False), nn.SiLU(), BitLinear(32, 4))


def train(model, run, autocast=False, steps=20):
    """Return the losses of some steps of Adam on a fixed regression."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 16, generator=generator)
    target = torch.stack([x[:, :4].sum(1), x[:, 4:8].prod(1), x[:, 8].abs(), x[:, 9] * x[:, 10]], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (run(x).float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what torch.compile imports
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_training_is_eager_training(autocast):
    torch._dynamo.reset()
    eager, compiled = small_model(), small_model()
    losses = train(eager, eager, autocast)
    assert losses[-1] < 0.7 * losses[0]
    assert train(compiled, torch.compile(compiled, fullgraph=True, backend="aot_eager"), autocast) == losses
    for parameter, expected in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what torch.compile imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++, which is not installed")
@pytest.mark.parametrize("autocast", [False, True])
def test_inductor_training_is_eager_training(autocast):
    """Compare closely at first, then loosely: Inductor's SiLU differs in the last bits, which may flip a code."""
    torch._dynamo.reset()
    eager, compiled = small_model(), small_model()
    losses = train(eager, eager, autocast)
    compiled_losses = train(compiled, torch.compile(compiled, fullgraph=True), autocast)
    np.testing.assert_allclose(compiled_losses[:3], losses[:3], rtol=1e-2 if autocast else 1e-4)
    np.testing.assert_allclose(compiled_losses[-1], losses[-1], rtol=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what torch.compile imports
def test_compiled_layers_that_share_an_input_quantize_it_once():
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd

    ops: list[str] = []

    def keep(graph, _):
        ops.extend(node.target.name() for node in graph.graph.nodes if "bitnet_jit" in str(node.target))
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    layers, x = nn.ModuleList(BitLinear(12, 5) for _ in range(3)), torch.randn(4, 12, requires_grad=True)
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    run = torch.compile(lambda x: sum(layer(x) for layer in layers), fullgraph=True, backend=backend)
    tensors = [x, *layers.parameters()]
    gradients = torch.autograd.grad(run(x).square().sum(), tensors)
    expected = torch.autograd.grad(sum(layer(x) for layer in layers).square().sum(), tensors)
    assert [ops.count(f"bitnet_jit::{op}_activation") for op in ("quantize", "dequantize")] == [1, 1]
    assert ops.count("bitnet_jit::quantize_weight") == 3
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)
