"""Rotations of rows: the reference against the matrix entry by entry, the ops against the reference."""

import numpy as np
import pytest
import torch
from folded_models import matrix
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.hadamard import (
    add_rms_norm_hadamard,
    hadamard,
    inverse_hadamard,
    rms_norm_hadamard,
    silu_mul_hadamard,
)

OPS = {"hadamard": hadamard, "inverse_hadamard": inverse_hadamard}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(rows, features, seed=0):
    """Draw x and other (M, K), weight and signs (K,)."""
    generator = torch.Generator().manual_seed(seed)
    x, other = torch.randn(2, rows, features, generator=generator)
    weight = torch.rand(features, generator=generator) + 0.5
    return x, other, weight, torch.randn(features, generator=generator).sign()


def test_the_worked_example():
    signs = np.array([1, -1, 1, 1], np.float32)
    assert reference.hadamard([[1, 2, 3, 4]], signs, 4).tolist() == [[3, 1, -4, 2]]
    assert hadamard(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.from_numpy(signs), 4).tolist() == [3, 1, -4, 2]


@given(
    block=st.sampled_from([1, 2, 4, 16, 64, 512]),
    count=st.sampled_from([1, 2, 3]),
    rows=st.sampled_from([0, 1, 3, 17]),
    signed=st.booleans(),
)
def test_the_reference_multiplies_by_the_matrix(block, count, rows, signed):
    x, _, _, signs = (part.numpy() for part in draw(rows, block * count))
    signs = signs if signed else None
    ones = 1.0 if signs is None else signs.astype(np.float64)
    by_block = (x * ones).reshape(rows, count, block) @ matrix(block)
    np.testing.assert_allclose(reference.hadamard(x, signs, block), by_block.reshape(x.shape), rtol=0, atol=2e-6)
    back = (x.astype(np.float64).reshape(rows, count, block) @ matrix(block)).reshape(x.shape) * ones
    np.testing.assert_allclose(reference.inverse_hadamard(x, signs, block), back, rtol=0, atol=2e-6)


@given(
    op=st.sampled_from(list(OPS)),
    block=st.sampled_from([1, 2, 8, 16, 128]),
    count=st.sampled_from([1, 3]),
    leading=st.sampled_from([(), (1,), (3,), (2, 17), (0,)]),
    dtype=st.sampled_from(DTYPES),
    extreme=st.sampled_from([None, -0.0, 1e-41, 3e38, float("nan"), float("inf")]),
)
def test_ops_are_the_reference_to_the_bit(op, block, count, leading, dtype, extreme):
    rows = int(np.prod(leading))
    x, _, _, signs = draw(rows, block * count)
    if extreme is not None:
        x[rows // 2 :, 0] = extreme
    kept = x.to(dtype).view(*leading, x.shape[-1])
    expected = getattr(reference, op)(kept.float().reshape(rows, x.shape[-1]).numpy(), signs.numpy(), block)
    y = OPS[op](kept, signs, block)
    assert (y.dtype, y.shape) == (dtype, kept.shape)
    wanted = torch.from_numpy(expected).to(dtype).view(y.shape)
    assert torch.equal(torch.nan_to_num(y), torch.nan_to_num(wanted))
    assert torch.equal(y.isnan(), wanted.isnan())


def test_rows_with_gaps_and_parts_of_tensors():
    wide, _, _, signs = draw(6, 128)
    x = wide[::2, 32:96]
    assert torch.equal(hadamard(x, signs[:64], 32), hadamard(x.contiguous(), signs[:64].clone(), 32))
    assert torch.equal(hadamard(x.T.contiguous().T, signs[:64], 32), hadamard(x.contiguous(), signs[:64], 32))
    gate, up = wide.chunk(2, -1)
    wanted = silu_mul_hadamard(gate.contiguous(), up.contiguous(), signs[:64], 32)
    assert torch.equal(silu_mul_hadamard(gate, up, signs[:64], 32), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [8, 64])  # by steps, and by a kernel where there is one
def test_fused_ops_round_nothing_before_the_rotation(dtype, block):
    x, other, weight, signs = draw(17, 192)
    x, other = x.to(dtype), other.to(dtype)
    arrays = weight.numpy(), 1e-5, signs.numpy(), block
    total, y = add_rms_norm_hadamard(x, other, weight, 1e-5, signs, block)
    assert torch.equal(total, x + other)
    assert torch.equal(y, rms_norm_hadamard(total, weight, 1e-5, signs, block))
    norm = torch.ops.bitnet_jit.rms_norm(total.float(), weight, 1e-5)
    assert torch.equal(y, hadamard(norm, signs, block).to(dtype))
    close = {"rtol": torch.finfo(dtype).eps, "atol": 4 * torch.finfo(torch.float32).eps * 8}
    exact = reference.rms_norm_hadamard(total.float().numpy(), *arrays)
    torch.testing.assert_close(y.float(), torch.from_numpy(exact), **close)
    product = torch.ops.bitnet_jit.silu_mul_norm(x.float(), other.float(), None, 0.0)
    y = silu_mul_hadamard(x, other, signs, block)
    assert torch.equal(y, hadamard(product, signs, block).to(dtype))
    exact = reference.silu_mul_hadamard(x.float().numpy(), other.float().numpy(), signs.numpy(), block)
    torch.testing.assert_close(y.float(), torch.from_numpy(exact), **close)


@pytest.mark.parametrize("op", OPS)
def test_gradients_are_rotations_the_other_way(op):
    x, dy, _, signs = draw(3, 64)
    double = torch.autograd.functional.jacobian(lambda row: OPS[op](row, signs, 32), x[0])
    (gradient,) = torch.autograd.grad(OPS[op](x.requires_grad_(), signs, 32), x, dy)
    torch.testing.assert_close(gradient, dy @ double, rtol=1e-5, atol=1e-5)
    with pytest.raises(InvalidInput, match="signs: requires_grad=True"):
        OPS[op](x, signs.clone().requires_grad_(), 32)


@pytest.mark.parametrize("block", [0, 3, 128, 2**14, -2, "2", None])
def test_a_block_that_does_not_fit_is_named(block):
    x, _, _, signs = draw(3, 64)
    with pytest.raises(InvalidInput, match="block: expected a power of two|whole blocks of 128, got"):
        hadamard(x, signs, block)
