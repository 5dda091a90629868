"""Every op, every tensor argument: odd ones are computed right, or refused in words; nothing else is read."""

import pytest
import torch
from drawn_arguments import EACH_TENSOR, SCALES, argument_of, has_groups, right

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops import eager
from bitnet_jit.ops.op import OPS


def op(name):
    return getattr(torch.ops.bitnet_jit, name).default


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def in_wider_memory(tensor):
    """The tensor as a part of a larger one: with gaps in each dimension, from an odd offset on."""
    wide = torch.full([2 * size + 3 for size in tensor.shape] or [3], 99).to(tensor.dtype)
    part = wide[tuple(slice(3, None, 2) for _ in tensor.shape) if tensor.dim() else 1]
    return part.copy_(tensor)


def shifted(tensor):
    """The tensor one element behind where its memory begins, and followed by others."""
    memory = torch.full((tensor.numel() + 2,), 99).to(tensor.dtype)
    part = memory[1:-1].view(tensor.shape)
    return part.copy_(tensor)


def transposed(tensor):
    """The tensor in memory with its dimensions the other way round."""
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def negated_view(tensor):
    """The tensor as a view with torch's bit for negated numbers, as `.conj().imag` gives them."""
    view = torch._neg_view(-tensor)
    assert view.is_neg()
    return view


def one_number(tensor):
    """The first number of a tensor everywhere, as an expanded tensor."""
    return tensor.reshape(-1)[:1].reshape([1] * tensor.dim()).expand(tensor.shape)


def parameter(tensor):
    return torch.nn.Parameter(tensor, requires_grad=False)


def inference(tensor):
    """A tensor without a version, made where no gradients are recorded."""
    with torch.inference_mode():
        return tensor.clone()


VIEWS = (in_wider_memory, shifted, transposed, negated_view, one_number, parameter, inference)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_views(name, argument, view):
    for scale in SCALES:
        values = right(name, scale)
        odd = view(values[argument])
        plain = values | {argument: odd.resolve_neg().clone(memory_format=torch.contiguous_format)}
        expected = op(name)(*plain.values())
        for call in (eager(name), op(name)):
            if argument_of(name, argument).written and (odd.is_neg() or not odd.is_contiguous()):
                with pytest.raises(InvalidInput, match=f"{argument}: is written into, so that it has to be contiguous"):
                    call(*(values | {argument: odd}).values())
                continue
            assert_same(call(*(values | {argument: odd}).values()), expected)


@pytest.mark.parametrize("make", [negated_view, lambda tensor: (tensor * 1j).conj().imag])
@pytest.mark.parametrize("name", [name for name, argument in EACH_TENSOR if argument == "w_scale"])
def test_a_scale_that_is_the_imaginary_part_of_a_conjugate(name, make):
    values = right(name)
    scale = make(values["w_scale"])
    expected = op(name)(*(values | {"w_scale": scale.resolve_neg()}).values())
    for call in (eager(name), op(name)):
        assert_same(call(*(values | {"w_scale": scale}).values()), expected)


@pytest.mark.parametrize("leading", [(), (0,), (1,), (2, 0, 3), (2, 1, 3)])
@pytest.mark.parametrize("name", OPS)
def test_any_leading_dimensions(name, leading):
    values = right(name, leading=leading)
    flat = {key: flattened(name, key, value, len(leading)) for key, value in values.items()}
    actual, expected = (
        result if isinstance(result, tuple) else (result,)
        for result in (eager(name)(*values.values()), op(name)(*flat.values()))
    )
    for one, other in zip(actual, expected, strict=True):
        assert_same(one.reshape(other.shape), other)
    meta = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    for one, other in zip(actual, as_tuple(op(name)(*meta.values())), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def flattened(name, argument, value, dims):
    """A tensor with leading dimensions as rows."""
    if not isinstance(value, torch.Tensor) or not getattr(argument_of(name, argument).shape, "leading", False):
        return value
    return value.reshape(-1, *value.shape[dims:]) if value.numel() else value.reshape(0, *value.shape[dims:])


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_gradients_that_are_asked_for(name, argument):
    """An op computes the same where a gradient is wanted, or says that it has none for that argument."""
    values = right(name)
    tensor = values[argument]
    if not tensor.is_floating_point():
        with pytest.raises(RuntimeError, match="floating point"):
            tensor.requires_grad_()
        return
    expected = op(name)(*values.values())
    for call in (eager(name), op(name)):
        try:
            actual = call(*(values | {argument: tensor.clone().requires_grad_()}).values())
        except InvalidInput as error:
            assert str(error).startswith(f"{argument}: requires_grad=True")  # noqa: PT017
            continue
        assert_same(as_tuple(actual)[0].detach(), as_tuple(expected)[0])


@pytest.mark.parametrize("lose", ["freed", "never made"])
@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_tensors_without_memory(name, argument, lose):
    values = right(name)
    tensor = values[argument].clone()
    if lose == "freed":
        tensor.untyped_storage().resize_(0)
    else:
        tensor = torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype)
    try:
        actual = eager(name)(*(values | {argument: tensor}).values())
    except (InvalidInput, RuntimeError):
        return
    assert lose == "never made"
    assert_same(actual, op(name)(*(values | {argument: torch.zeros_like(values[argument])}).values()))


@pytest.mark.parametrize("activation", ["a8", "a16"])
@pytest.mark.parametrize("name", [name for name in OPS if has_groups(name)])
def test_groups_wider_than_the_layer(name, activation):
    """One group holds every input, however wide it is, and takes no memory for those that there are not."""
    values = right(name, "group")
    values |= {"w_scale": values["w_scale"][:, :1].contiguous(), "group_size": 70}
    values |= {"activation": activation} if "activation" in values else {}
    expected = op(name)(*values.values())
    for group_size in (71, 128, 2**20, 2**31, 2**62, 2**63 - 1):
        actual = eager(name)(*(values | {"group_size": group_size}).values())
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["quantize_weight", "round_weight"])
def test_a_weight_without_outputs_is_refused(name):
    values = right(name) | {"weight": torch.ones(0, 70)}
    with pytest.raises(InvalidInput, match=r"weight: expected .* \(N, K\) with N of at least 1 .*got .* \(0, 70\)"):
        eager(name)(*values.values())
