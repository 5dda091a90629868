"""Gate and up as parts of one tensor: read where they are, to the same bits as copies of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.kernels.numba import tensors
from bitnet_jit.ops.norm import (
    gelu_mul_norm,
    relu2_mul_norm,
    relu2_mul_norm_quantize,
    sigmoid_mul_norm,
    silu_mul_norm,
    silu_mul_norm_quantize,
)

OPS = {
    "relu2": relu2_mul_norm,
    "relu2, codes": relu2_mul_norm_quantize,
    "silu": silu_mul_norm,
    "silu, codes": silu_mul_norm_quantize,
    "sigmoid": sigmoid_mul_norm,
    "gelu": gelu_mul_norm,
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def halves(leading, features, dtype, gap, seed):
    """Return gate and up in one tensor, with NaN between, before and behind them."""
    width = 2 * features + 3 * gap
    whole = torch.full((*leading, width), torch.nan, dtype=dtype)
    gate, up = whole[..., gap : gap + features], whole[..., 2 * gap + features : 2 * gap + 2 * features]
    generator = torch.Generator().manual_seed(seed)
    for part in (gate, up):
        part.copy_(torch.randn(part.shape, generator=generator) * 3)
    return gate, up


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15)
@given(
    leading=st.sampled_from([(1,), (2,), (33,), (2, 3), (3, 1), (1, 1, 1), (0,), ()]),
    features=st.sampled_from([1, 3, 17, 64, 129, 1000]),
    gap=st.sampled_from([0, 1, 64]),
    seed=st.integers(0, 2**31),
)
def test_parts_give_the_bits_of_copies(name, dtype, leading, features, gap, seed):
    gate, up = halves(leading, features, dtype, gap, seed)
    weight = torch.rand(features) + 0.5
    result = OPS[name](gate, up, weight, 1e-5)
    expected = OPS[name](gate.clone(), up.clone(), weight, 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert not any(part.isnan().any() for part in result)


@pytest.mark.parametrize("name", OPS)
def test_parts_at_other_distances_and_of_other_strides_are_copied(name):
    gate, up = halves((5,), 24, torch.float32, 1, 3)
    weight = torch.ones(24)
    expected = OPS[name](gate.clone(), up.clone(), weight, 1e-5)
    wider = torch.full((5, 31), torch.nan)[:, :24].copy_(up)
    columns = gate.t().contiguous().t()
    for first, second in ((gate, wider), (gate.clone(), up), (gate, up.clone()), (columns, up)):
        result = OPS[name](first, second, weight, 1e-5)
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    one = gate[:1].expand(5, -1)
    result = OPS[name](one, up, weight, 1e-5)
    assert torch.equal(result[0], OPS[name](one.clone(), up.clone(), weight, 1e-5)[0])


def test_parts_are_not_copied():
    gate, up = halves((4, 2), 24, torch.float32, 0, 1)
    rows = tensors.in_rows(gate, up)
    assert rows[0] is gate
    assert rows[1] is up
    assert rows[2] == 48
    copies = tensors.in_rows(gate.transpose(0, 1), up)
    assert all(part.is_contiguous() for part in copies[:2])
    assert copies[2] == 24
