"""Numbers as callers pass them: Python's, NumPy's, torch's; and values that are no numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.arguments import as_real, as_whole, show, whole_number
from bitnet_jit.errors import InvalidInput

WHOLE = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, np.array, torch.tensor, int]
REAL = [np.float16, np.float32, np.float64, np.array, torch.tensor, float, Fraction]
NO_NUMBERS = [
    None,
    True,
    False,
    np.bool_(True),
    torch.tensor(True),
    np.array(True),
    "3",
    b"3",
    3j,
    [3],
    (),
    np.array([3]),
    np.array("3"),
    torch.tensor([3]),
    torch.tensor(3, device="meta"),
    torch.nn.Linear,
    object(),
]


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_of_every_kind(kind):
    for number in (0, 3, 100):
        assert (as_whole(kind(number)), type(as_whole(kind(number)))) == (number, int)
        assert (as_real(kind(number)), type(as_real(kind(number)))) == (float(number), float)


@pytest.mark.parametrize("kind", REAL)
def test_real_numbers_of_every_kind(kind):
    assert (as_real(kind(0.5)), type(as_real(kind(0.5)))) == (0.5, float)
    assert as_whole(kind(0.5)) is None


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_values_that_are_no_numbers(value):
    assert as_whole(value) is None
    assert as_real(value) is None
    with pytest.raises(InvalidInput, match="rows: expected a whole number of at least 1, got"):
        whole_number("rows", value)


def test_a_float_is_no_whole_number():
    for value in (3.0, np.float32(3), torch.tensor(3.0), math.nan, math.inf):
        assert as_whole(value) is None


@given(st.integers())
def test_integers_of_every_size(number):
    assert as_whole(number) == number
    assert math.copysign(1, as_real(number)) == math.copysign(1, number)


def test_numbers_that_no_float_holds_are_infinite():
    assert (as_real(10**400), as_real(-(10**5000))) == (math.inf, -math.inf)


def test_values_are_shown_shortly():
    assert show(10**5000) == "an integer of 16610 bits"
    assert "bits" not in show(10**50)
    assert len(show("x" * 10**6)) == 80
    with pytest.raises(InvalidInput, match="rows: expected at most 5, got an integer of 16610 bits"):
        whole_number("rows", 10**5000, most=5)
