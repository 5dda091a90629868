"""Floats that files hold otherwise than we do: what is written is read as the same numbers, or it is told."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.hf_floats import AXIS_FIRST, AXIS_LAST, LESS_ONE, LOGARITHM, SAME, WIDE
from bitnet_jit.checkpoints.formats.nearest import nearest

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LENGTHS = st.sampled_from([1, 3, 17, 33, 127])


def drawn(length, seed, low, high, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(length, generator=generator, dtype=torch.float64)).to(dtype)


@given(length=LENGTHS, seed=st.integers(0, 2**31), dtype=st.sampled_from(DTYPES), spread=st.sampled_from([1e-6, 1, 40]))
def test_what_is_read_from_files_is_written_as_the_same_numbers(length, seed, dtype, spread):
    for form, low, high in ((LESS_ONE, -spread, spread), (LOGARITHM, -min(spread, 20.0), min(spread, 20.0))):
        ours = form.read(drawn(length, seed, low, high, dtype))
        assert form.moved(ours) == 0
        assert torch.equal(form.read(form.write(ours)), ours)


@given(length=LENGTHS, seed=st.integers(0, 2**31))
def test_norms_that_one_can_be_taken_from_do_not_move(length, seed):
    """Those of half and more: there the difference is exact."""
    assert LESS_ONE.moved(drawn(length, seed, 0.5, 100.0)[::1]) == 0
    assert LESS_ONE.moved(drawn(2 * length, seed, 0.5, 100.0)[::2]) == 0


def test_what_does_not_come_back_is_told():
    assert 0 < LESS_ONE.moved(torch.tensor([1.0, 1e-9])) <= 1
    assert 0 < LESS_ONE.moved(torch.tensor([0.1])) < 3e-7
    moved = LOGARITHM.moved(-drawn(200, 3, 500.0, 1000.0))
    assert 0 < moved < 5e-7
    for decay in (0.0, 1.0, math.nan):
        assert LOGARITHM.moved(torch.tensor([-1.0, decay])) == math.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_axes_and_copies_come_back(dtype):
    taps = drawn(21, 0, -1.0, 1.0, dtype).view(7, 3)
    for form, shape in ((AXIS_FIRST, (7, 1, 3)), (AXIS_LAST, (7, 3, 1))):
        written = form.write(taps.t().contiguous().t())
        assert tuple(written.shape) == form.stored((7, 3)) == shape
        assert torch.equal(form.read(written), taps.float())
    assert SAME.write(taps) is taps
    assert WIDE.write(taps).dtype == torch.float32
    assert SAME.moved(taps) == WIDE.moved(taps) == 0


@given(length=LENGTHS, seed=st.integers(0, 2**31), scale=st.floats(1e-4, 1e4))
def test_the_nearest_neighbour_is_taken(length, seed, scale):
    wanted = drawn(length, seed, -4.0, 4.0)
    stored = nearest(wanted, lambda near: near * scale, wanted / scale)
    for end in (math.inf, -math.inf):
        other = torch.nextafter(wanted / scale, torch.tensor(end))
        assert ((stored * scale - wanted).abs() <= (other * scale - wanted).abs()).all()
