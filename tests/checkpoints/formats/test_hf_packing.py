"""The repacking of Hugging Face bits against unpacking and packing, over ragged shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.checks import count_codes
from bitnet_jit.checkpoints.formats import hf_packing
from bitnet_jit.checkpoints.formats.hf_packing import repack
from bitnet_jit.packing import FORMATS


def hf_pack(w_q: np.ndarray) -> torch.Tensor:
    """Pack row i * R + j into bits 2i of byte row j, code by code."""
    height = -(-w_q.shape[0] // 4)
    packed = np.zeros((height, w_q.shape[1]), np.uint8)
    for row in range(w_q.shape[0]):
        digit, j = divmod(row, height)
        packed[j] |= (w_q[row] + 1).astype(np.uint8) << (2 * digit)
    return torch.from_numpy(packed)


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), slice_bytes=st.integers(1, 99)
)
def test_repack_is_unpack_and_pack(rows, columns, seed, slice_bytes):
    w_q = np.random.default_rng(seed).integers(-1, 2, (rows, columns), np.int8)
    out = torch.full(FORMATS["i2"].packed_shape(rows, columns), 255, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_packing, "SLICE_BYTES", slice_bytes)
        repack(hf_pack(w_q), out, columns)
    assert np.array_equal(out.numpy(), FORMATS["i2"].pack(w_q))
    count = count_codes(out, columns)
    assert (count.codes, count.zeros, count.threes) == (w_q.size, int((w_q == 0).sum()), 0)
    assert count.density == pytest.approx(np.mean(w_q != 0))


def test_code_three_is_counted():
    source = hf_pack(np.zeros((8, 5), np.int8))
    source[1, 2] |= 0b11_00_00
    out = torch.empty(8, 2, dtype=torch.uint8)
    repack(source, out, 5)
    count = count_codes(out, 5)
    assert (count.threes, count.zeros) == (1, 39)


def test_a_view_at_an_odd_address_is_read_right():
    w_q = np.random.default_rng(0).integers(-1, 2, (8, 12), np.int8)
    packed = hf_pack(w_q)
    buffer = torch.empty(packed.numel() + 3, dtype=torch.uint8)
    odd = buffer[3:].view(packed.shape).copy_(packed)
    out = torch.empty(8, 3, dtype=torch.uint8)
    repack(odd, out, 12)
    assert np.array_equal(out.numpy(), FORMATS["i2"].pack(w_q))
