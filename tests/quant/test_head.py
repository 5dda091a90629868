"""Quantization of heads equals the reference, whatever pieces it is done in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit import reference
from bitnet_jit.errors import InvalidInput
from bitnet_jit.quant import dequantize_head, quantize_head
from bitnet_jit.quant import head as pieces

KINDS = ("normal", "zeros", "denormal", "huge", "halves", "nan", "inf")


def drawn_head(seed, rows, columns, kinds):
    """A head whose rows are of some kinds."""
    rng = np.random.default_rng(seed)
    head = rng.standard_normal((rows, columns)).astype(np.float32)
    for row in range(rows):
        kind = kinds[row % len(kinds)]
        factors = {"zeros": 0.0, "denormal": 1e-40, "huge": 3e37}
        head[row] *= np.float32(factors.get(kind, 1.0))
        if kind == "halves":
            head[row] = rng.integers(-253, 254, columns) / 2
            head[row, 0] = 127
        elif kind in ("nan", "inf"):
            head[row, rng.integers(columns)] = float(kind)
    return head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from((1, 3, 17)),
    columns=st.sampled_from((1, 2, 33, 70)),
    kinds=st.permutations(KINDS),
)
def test_codes_and_scales_equal_the_reference(dtype, seed, rows, columns, kinds):
    head = torch.from_numpy(drawn_head(seed, rows, columns, kinds)).to(dtype)
    codes, scale = quantize_head(head)
    expected_codes, expected_scale = reference.quantize_head(head.float().numpy())
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scale, expected_scale)
    assert bool((codes >= -127).all())


def test_pieces_make_no_difference(monkeypatch):
    head = torch.randn(50, 33, generator=torch.Generator().manual_seed(0))
    whole = quantize_head(head)
    monkeypatch.setattr(pieces, "CHUNK_ELEMENTS", 7 * 33)
    assert all(torch.equal(a, b) for a, b in zip(quantize_head(head), whole, strict=True))


def test_codes_times_scales_are_within_half_a_step():
    head = torch.randn(50, 33, generator=torch.Generator().manual_seed(0))
    codes, scale = quantize_head(head)
    assert bool(((dequantize_head(codes, scale) - head).abs() <= 0.5001 * scale[:, None]).all())


@pytest.mark.parametrize(
    "head", [torch.ones(3), torch.ones(2, 3, dtype=torch.int8), torch.ones(2, 0)], ids=["vector", "int8", "empty"]
)
def test_what_is_no_head_is_refused(head):
    with pytest.raises(InvalidInput, match="head: expected floating point"):
        quantize_head(head)


@pytest.mark.parametrize(("shape", "dtype"), [((3, 5), torch.uint8), ((5, 3), torch.int8), ((15,), torch.int8)])
def test_codes_of_another_shape_or_dtype_are_refused(shape, dtype):
    with pytest.raises(InvalidInput, match=r"codes: expected int8 \(3, 5\) on cpu, got"):
        quantize_head(torch.ones(3, 5), torch.empty(shape, dtype=dtype))


def test_codes_are_written_where_they_are_wanted():
    head, codes = torch.randn(7, 33), torch.full((7, 33), -128, dtype=torch.int8)
    written, _ = quantize_head(head, codes)
    assert written is codes
    assert torch.equal(codes, quantize_head(head)[0])
