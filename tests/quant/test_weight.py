"""The torch quantizer against the NumPy reference, bit for bit; rows and groups as separate tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.quant import dequantize_weight, quantize_weight

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
WEIGHTS = st.tuples(st.integers(1, 9), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=FLOATS)
)
HALVES = (torch.bfloat16, torch.float16)


def same(result: tuple[torch.Tensor, torch.Tensor], w_q: np.ndarray, w_scale: np.ndarray) -> None:
    assert result[0].dtype == torch.int8
    assert result[1].dtype == torch.float32
    assert result[1].shape == np.shape(w_scale)
    np.testing.assert_array_equal(result[1].numpy(), w_scale)
    np.testing.assert_array_equal(result[0].numpy(), w_q)


@given(w=WEIGHTS)
def test_tensor_scale_is_the_reference_bit_for_bit(w):
    same(quantize_weight(torch.from_numpy(w)), *reference.quantize_weight(w))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (0, 5),  # no weight at all: the smallest scale
        (3, 2**17 + 1),  # a row longer than a chunk of the sum
        (700, 513),  # several chunks, the last one short
    ],
)
def test_tensor_scale_of_other_shapes(shape):
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    same(quantize_weight(torch.from_numpy(w)), *reference.quantize_weight(w))


@given(w=WEIGHTS)
def test_each_row_is_quantized_as_a_tensor(w):
    rows = [reference.quantize_weight(row[None]) for row in w]
    same(
        quantize_weight(torch.from_numpy(w), "row"),
        np.concatenate([q for q, _ in rows]),
        np.array([s for _, s in rows]),
    )


@given(w=WEIGHTS, group_size=st.integers(1, 48))
def test_each_group_is_quantized_as_a_tensor(w, group_size):
    starts = range(0, w.shape[1], group_size)
    groups = [[reference.quantize_weight(row[None, start : start + group_size]) for start in starts] for row in w]
    w_q = np.concatenate([np.concatenate([q for q, _ in row], 1) for row in groups])
    w_scale = np.array([[s for _, s in row] for row in groups], np.float32)
    same(quantize_weight(torch.from_numpy(w), "group", group_size), w_q, w_scale)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_types_are_widened(dtype):
    w = torch.randn(33, 70).to(dtype)
    same(quantize_weight(w), *reference.quantize_weight(w.float().numpy()))


def test_ties_round_to_even_and_the_input_stays():
    w = torch.tensor([[0.5, 1.5, -0.5, -1.5]])  # mean 1: halves go to 0 and 2, which is cut to 1
    before = w.clone()
    w_q, w_scale = quantize_weight(w)
    assert w_q.tolist() == [[0, 1, 0, -1]]
    assert w_scale.item() == 1.0
    assert torch.equal(w, before)


def test_float64_input_stays_as_it_was():
    w = torch.tensor([[-2.0, 1.0]], dtype=torch.float64)
    assert quantize_weight(w)[1].item() == 1.5
    assert w.tolist() == [[-2.0, 1.0]]


def test_views_of_any_strides():
    w = torch.randn(48, 32)
    for view in (w.T, w[::3, 1::2], w.T[5:]):
        same(quantize_weight(view), *reference.quantize_weight(view.numpy()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("scale", "group_size"), [("tensor", 0), ("row", 0), ("group", 4)])
def test_nan_and_infinity_show_in_the_scale(bad, scale, group_size):
    w = torch.randn(3, 8)
    w[1, 6] = bad
    finite = torch.isfinite(quantize_weight(w, scale, group_size)[1]).tolist()
    expected = {"tensor": False, "row": [True, False, True], "group": [[True] * 2, [True, False], [True] * 2]}
    assert finite == expected[scale]


@pytest.mark.parametrize(("scale", "group_size"), [("tensor", 0), ("row", 0), ("group", 5)])
def test_dequantize_is_the_product_of_codes_and_scales(scale, group_size):
    w_q, w_scale = quantize_weight(torch.randn(7, 12), scale, group_size)
    wide = reference.expand_scale(w_scale.numpy(), (7, 12), group_size).astype(np.float32)
    np.testing.assert_array_equal(dequantize_weight(w_q, w_scale, group_size).numpy(), w_q.numpy() * wide)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(3),), r"w: .*\(3,\)"),
        ((torch.ones(3, 4, dtype=torch.int32),), r"w: .*int32"),
        ((torch.ones(3, 4), "column"), "scale: .*'column'"),
        ((torch.ones(3, 4), "group"), "group_size: .*0 with 'group'"),
        ((torch.ones(3, 4), "group", -1), "group_size: .*-1"),
        ((torch.ones(3, 4), "row", 2), "group_size: .*2 with 'row'"),
    ],
)
def test_bad_input_is_named(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        quantize_weight(*arguments)
