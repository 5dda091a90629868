"""Every op, every argument: whatever is wrong is refused in words, alike in calls that run and in calls that trace."""

import re

import numpy as np
import pytest
import torch
from drawn_arguments import (
    EACH_OPTION,
    EACH_TENSOR,
    LEADING,
    SCALES,
    SIZES,
    argument_of,
    may_have_shape,
    right,
    wrong_dtypes,
    wrong_layouts,
    wrong_options,
)
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops import calls, eager
from bitnet_jit.ops.arguments import Dtype, Epsilon, LayoutName, PowerOfTwo, Tensor, Whole, Word
from bitnet_jit.ops.op import OPS


def op(name):
    return getattr(torch.ops.bitnet_jit, name).default


def ways(name):
    """All ways to call an op."""
    return eager(name), op(name), OPS[name].run


def moved(values, move):
    """Arguments with their tensors moved."""
    return {name: move(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def refusal(call, values):
    """The words in which a call is refused; they begin with the name of an argument."""
    with pytest.raises(InvalidInput) as caught:
        call(*values.values())
    words = str(caught.value)
    assert words.partition(":")[0] in values
    return words


def refused_by_all(name, values):
    """The words in which an op refuses arguments: before and after a right call, on "meta" and by fake tensors."""
    eager(name)(*right(name).values())
    words = {refusal(call, values) for call in ways(name)}
    words.add(refusal(op(name), moved(values, lambda tensor: tensor.to("meta"))))
    with FakeTensorMode() as mode:
        words.add(refusal(op(name), moved(values, mode.from_tensor)))
    assert len(words) == 1, words
    return words.pop()


@pytest.mark.parametrize("name", OPS)
def test_records_agree_with_the_schemas_that_torch_knows(name):
    kinds = {Whole: "int", PowerOfTwo: "int", Epsilon: "float", Word: "str", LayoutName: "str", Dtype: "ScalarType"}
    schema = op(name)._schema.arguments
    assert [argument.name for argument in schema] == [argument.name for argument in OPS[name].spec.arguments]
    for told, argument in zip(schema, OPS[name].spec.arguments, strict=True):
        is_tensor = isinstance(argument, Tensor)
        kind = ("Optional[Tensor]" if argument.optional else "Tensor") if is_tensor else kinds[type(argument)]
        assert str(told.real_type) == kind, argument.name


def test_every_op_has_a_record():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("bitnet_jit::")}
    assert registered == {f"bitnet_jit::{name}" for name in OPS}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", OPS)
def test_right_arguments_are_taken_by_all(name, scale):
    values = right(name, scale)
    expected = op(name)(*values.values())
    for call in ways(name):
        torch.testing.assert_close(call(*values.values()), expected, rtol=0, atol=0)
    op(name)(*moved(values, lambda tensor: tensor.to("meta")).values())


def refuse_shape(name, argument, values, shape):
    """Have a tensor of another shape refused, where it is wrong beside the other arguments."""
    if not may_have_shape(name, argument, shape, values):
        tensor = torch.ones((), dtype=values[argument].dtype).expand(shape)
        if argument_of(name, argument).written:  # for its strides it would be refused, too
            tensor = tensor.contiguous()
        refused_by_all(name, values | {argument: tensor})


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_neighbours_of_the_right_shape(name, argument):
    values = right(name, "group" if argument == "w_scale" else "tensor")
    shape, (k, n) = tuple(values[argument].shape), SIZES.values()
    near = [(*shape[:i], shape[i] + step, *shape[i + 1 :]) for i in range(len(shape)) for step in (-1, 1)]
    near += [(1, *shape), (*shape, 1), shape[1:], shape[:-1], shape[::-1], (*shape[:-1], 2**18 + 1), (*shape[:-1], 0)]
    for wrong in {*near, (), (k,), (n,), (n, k), (k, n), (0, k), (0, n)}:
        refuse_shape(name, argument, values, wrong)


shapes = st.lists(st.sampled_from((0, 1, *LEADING, 36, 37, 38, 69, 70, 71)), max_size=5).map(tuple)


@given(argument=st.sampled_from(EACH_TENSOR), shape=shapes, scale=st.sampled_from(SCALES))
def test_any_other_shape(argument, shape, scale):
    refuse_shape(*argument, right(argument[0], scale), shape)


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_dtypes(name, argument):
    for dtype in wrong_dtypes(name, argument):
        values = right(name)
        words = refused_by_all(name, values | {argument: values[argument].to(dtype)})
        assert str(dtype).removeprefix("torch.") in words


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_devices(name, argument):
    values = right(name)
    if len(OPS[name].spec.tensors) > 1:
        elsewhere = values | {argument: values[argument].to("meta")}
        for call in (op(name), eager(name)):
            assert "meta" in refusal(call, elsewhere)


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_layouts_of_memory(name, argument):
    values = right(name)
    eager(name)(*values.values())
    for tensor in wrong_layouts(values[argument]):
        for call in ways(name):
            words = refusal(call, values | {argument: tensor})
            assert words.startswith(f"{argument}: expected a dense, strided tensor, got one of the layout")


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors(name, argument):
    nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
    values = right(name) | {argument: nested}
    dense = rf"{argument}: expected a dense, strided tensor, got a nested tensor"
    alike = rf"{argument}: expected parts \(\.\.\., K\) of one K, got a nested tensor"
    assert re.match(dense, refusal(OPS[name].run, values))
    assert re.match(f"{dense}|{alike}", refusal(eager(name), values))
    with pytest.raises((InvalidInput, NotImplementedError), match="[Nn]ested"):  # some have no kernel there, torch says
        op(name)(*values.values())


@pytest.mark.parametrize(("name", "argument"), EACH_TENSOR)
def test_what_is_no_tensor(name, argument):
    values = right(name)
    eager(name)(*values.values())
    for value in (None, 3, "x", [1.0], np.ones(3)):
        if value is None and argument_of(name, argument).optional:
            continue
        for call in (op(name), eager(name)):
            with pytest.raises((InvalidInput, RuntimeError), match=rf"\b{argument}\b"):
                call(*(values | {argument: value}).values())
        assert refusal(OPS[name].run, values | {argument: value}).startswith(f"{argument}: expected a tensor")


@pytest.mark.parametrize(("name", "argument"), EACH_OPTION)
def test_options(name, argument):
    values = right(name)
    eager(name)(*values.values())
    for value in wrong_options(name, argument):
        changed = values | {argument: value}
        words = refusal(eager(name), changed)
        assert refusal(OPS[name].run, changed) == words
        with pytest.raises((InvalidInput, RuntimeError)) as caught:  # torch refuses what its schema does not know
            op(name)(*changed.values())
        if isinstance(caught.value, InvalidInput):
            assert str(caught.value) == words
            assert refusal(op(name), moved(changed, lambda tensor: tensor.to("meta"))) == words
        else:
            assert argument in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
@pytest.mark.parametrize("name", sorted({name for name, argument in EACH_OPTION if argument.endswith("features")}))
def test_whole_numbers_of_numpy_are_numbers(name, dtype):
    values = right(name, "group")
    numpys = {key: dtype(value) if type(value) is int else value for key, value in values.items()}
    calls.forget()
    expected = eager(name)(*numpys.values())
    torch.testing.assert_close(eager(name)(*values.values()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPS)
def test_another_number_of_arguments(name):
    values = tuple(right(name).values())
    for call in (op(name), eager(name)):
        for wrong in ((), values[:1] if len(values) > 2 else (), (*values, 1)):
            with pytest.raises((RuntimeError, TypeError), match="argument"):
                call(*wrong)
