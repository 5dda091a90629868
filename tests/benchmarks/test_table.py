"""Tables of a report: ratios say who is faster."""

import pytest

from benchmarks.harness.table import compared


@pytest.mark.parametrize(
    ("microseconds", "other", "words"),
    [(20.0, 10.0, "2.00x slower"), (10.0, 12.0, "1.20x faster"), (5.0, 5.0, "same"), (500.0, 501.0, "same")],
)
def test_a_time_is_compared_with_another_one(microseconds, other, words):
    assert compared(microseconds, other) == words
