"""Floats that are ternary times a scale are split into what gives them back exactly; others are told."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.quant import dequantize_weight
from bitnet_jit.quant.ternary import coarsest_scale, split_ternary

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST = 2.0**-24  # a denormal of float16


def drawn(seed, rows, inputs, group_size, dtype):
    """Return codes, and scales of groups among which are zeros, denormals, and scales that are the same."""
    generator = torch.Generator().manual_seed(seed)
    w_q = torch.randint(-1, 2, (rows, inputs), generator=generator, dtype=torch.int8)
    choices = torch.tensor([0.0, 1.0, 1.0, SMALLEST, 0.37, 65504.0]).to(dtype).float()
    picked = torch.randint(len(choices), (rows, -(-inputs // group_size)), generator=generator)
    return w_q, choices[picked]


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([1, 3, 17]),
    inputs=st.sampled_from([1, 3, 17, 33, 128, 131]),
    group_size=st.sampled_from([1, 3, 16, 128]),
    dtype=st.sampled_from(DTYPES),
)
def test_ternary_floats_come_back_from_codes_and_scales(seed, rows, inputs, group_size, dtype):
    w = dequantize_weight(*drawn(seed, rows, inputs, group_size, dtype), group_size).to(dtype)
    w_q, w_scale, exact = split_ternary(w, group_size)
    assert bool(exact.all())
    assert (w_q.dtype, w_scale.dtype, w_scale.shape) == (torch.int8, torch.float32, exact.shape)
    assert torch.equal(dequantize_weight(w_q, w_scale, group_size).to(dtype), w)


@given(
    seed=st.integers(0, 2**32 - 1),
    row=st.integers(0, 4),
    place=st.integers(0, 39),
    other=st.sampled_from([0.9999, 2.0, -0.5, 1e-30, torch.inf, -torch.inf, torch.nan]),
)
def test_one_other_number_makes_its_group_alone_inexact(seed, row, place, other):
    w = torch.randint(-1, 2, (5, 40), generator=torch.Generator().manual_seed(seed)).float()
    w[:, ::16] = 1  # so that each group of 16 has a magnitude
    w[row, place] = other
    w[row, place // 16 * 16 + (place % 16 == 0)] = 1
    *_, exact = split_ternary(w, 16)
    assert exact.logical_not().nonzero().tolist() == [[row, place // 16]]


@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 3, 17]), inputs=st.sampled_from([1, 17, 48]))
def test_the_coarsest_scale_stands_for_the_same_weight(seed, rows, inputs):
    w_q, scales = drawn(seed, rows, inputs, 16, torch.float32)
    w = dequantize_weight(w_q, scales, 16)
    w_q, scales, _ = split_ternary(w, 16)
    coarse = coarsest_scale(scales)
    assert torch.equal(dequantize_weight(w_q, coarse, 16), w)
    of_rows = [len({value for value in row if value}) for row in scales.tolist()]
    kinds = len({value for value in scales.flatten().tolist() if value})
    assert coarse.dim() == (0 if kinds < 2 else 1 if max(of_rows) < 2 else 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_weight_of_zeros_has_the_scale_one(rows):
    assert coarsest_scale(torch.zeros(rows, 2)).tolist() == 1.0
