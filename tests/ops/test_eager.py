"""`eager`: the short way to an op, and everything that must still see the op itself."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bitnet_jit.nn import PackedBitLinear
from bitnet_jit.ops import eager, library


@pytest.fixture
def layer():
    codes = torch.randint(-1, 2, (20, 48), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    return PackedBitLinear.from_codes(codes, torch.tensor(0.5))


@pytest.fixture
def x():
    return torch.randn(3, 48, generator=torch.Generator().manual_seed(1))


class Recorder(TorchDispatchMode):
    """Names of the ops that pass."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_equals_the_op(layer, x):
    expected = torch.ops.bitnet_jit.bit_linear(x, layer.w_packed, layer.w_scale, None, 48, 20, layer.layout, 0, "a8")
    assert torch.equal(layer(x), expected)


def test_a_plain_call_leaves_the_dispatcher_out(layer, x, monkeypatch):
    seen = []
    monkeypatch.setattr(library, "in_force", lambda: seen.append(1) or False)
    with torch.no_grad():
        layer(x)
    assert seen == [1]


def test_a_mode_sees_the_op(layer, x):
    with Recorder() as recorder:
        layer(x)
    assert "bitnet_jit::bit_linear" in recorder.names


def test_the_profiler_sees_the_op(layer, x):
    with profile(activities=[ProfilerActivity.CPU]) as record:
        layer(x)
    assert "bitnet_jit::bit_linear" in {event.key for event in record.key_averages()}


def test_autocast_is_heeded(layer, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


def test_gradients_flow(layer, x):
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).any())


def test_a_subclass_sees_the_op(layer, x):
    class Named(torch.Tensor):
        pass

    assert type(layer(x.as_subclass(Named))) is Named


class Elsewhere(torch.Tensor):
    """The numbers are another tensor's, as a sharded one's are."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, numbers):
        result = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device=numbers.device)
        result.numbers = numbers
        return result

    @classmethod
    def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
        return function(*(arg.numbers if isinstance(arg, cls) else arg for arg in args), **(kwargs or {}))


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("call", [eager("bit_linear"), torch.ops.bitnet_jit.bit_linear])
def test_a_subclass_at_any_place_is_asked_for_its_numbers(layer, x, call, position):
    args = [x, layer.w_packed, layer.w_scale, torch.randn(20), 48, 20, layer.layout, 0, "a8"]
    expected = call(*args)
    args[position] = Elsewhere(args[position])
    assert torch.equal(call(*args), expected)


def test_a_fake_tensor_stays_fake(layer, x):
    y = layer.to("meta")(x.to("meta"))
    assert y.device.type == "meta"
    assert y.shape == (3, 20)


def test_many_shapes_are_forgotten_not_gathered(layer, monkeypatch):
    from bitnet_jit.ops import call_cache, linear

    monkeypatch.setattr(call_cache, "MAX_CALLS", 4)
    for rows in range(1, 12):
        layer(torch.zeros(rows, 48))
    assert len(linear.BIT_LINEAR.calls) <= 4
