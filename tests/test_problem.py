"""Problems: buckets of rows, equality as keys, and their words."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.problem import Gpu, Problem, rows_bucket

PROBLEM = Problem(
    "bit_linear", "cpu", 4, 32, 48, "i2", "a8", "bfloat16", "bfloat16", scale="row", bias=True, device="this one"
)


@given(rows=st.integers(1, 2**40))
def test_a_bucket_is_the_least_power_of_two_that_holds_the_rows(rows):
    bucket = rows_bucket(rows)
    assert bucket & (bucket - 1) == 0
    assert bucket // 2 < rows <= bucket


def test_no_rows_share_the_bucket_of_one():
    assert rows_bucket(0) == rows_bucket(1) == 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Problem)])
def test_every_field_tells_problems_apart(field):
    value = getattr(PROBLEM, field)
    changed = Gpu("H200", "9.0", 132, 232448) if value is None else not value if value is True else value * 2 or 7
    other = dataclasses.replace(PROBLEM, **{field: changed})
    assert other != PROBLEM
    assert len({PROBLEM, other, dataclasses.replace(PROBLEM)}) == 2


def test_a_problem_reads_as_a_sentence():
    assert str(PROBLEM) == "bit_linear of 4 x 48 -> 32, on cpu, bfloat16 -> bfloat16, layout i2, row scales, a8"


def test_a_problem_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROBLEM.rows = 8
