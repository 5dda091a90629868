"""The largest logits in order, against Python's sort of pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.generation.largest import largest
from bitnet_jit.generation.order import first_keys, likeliest, sort_keys

LOGITS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, -math.inf, 0.5, 7.25]) | st.floats(
    width=32, allow_nan=False
)


def in_order(row):
    """Return ids, the largest logit first, the lowest id among equals."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


@given(
    rows=st.integers(1, 33).flatmap(
        lambda size: st.lists(st.lists(LOGITS, min_size=size, max_size=size), min_size=1, max_size=4)
    ),
    data=st.data(),
)
def test_order_of_any_logits(rows, data):
    number, logits = data.draw(st.integers(1, len(rows[0]))), torch.tensor(rows, dtype=torch.float32)
    rows = logits.tolist()
    values, ids = likeliest(logits, number)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [in_order(row)[:number] for row in rows]
    assert values.tolist() == [[row[token] for token in in_order(row)[:number]] for row in rows]
    assert largest(logits)[1].tolist() == [in_order(row)[0] for row in rows]


@pytest.mark.parametrize("size", [64, 1031, 5003])
@pytest.mark.parametrize("kinds", [1, 3, 50, 100_000])
@pytest.mark.parametrize("number", [1, 7, 64])
def test_ties_and_few_of_many(size, kinds, number):
    rows = torch.randint(kinds, (3, size), generator=torch.Generator().manual_seed(size)).float() - 2
    assert likeliest(rows, number)[1].tolist() == [in_order(row)[:number] for row in rows.tolist()]


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("number", [1, 7, 64])
def test_other_devices_find_the_same_keys(number, few):
    rows = torch.randint(9, (3, 517), generator=torch.Generator().manual_seed(2)).float() - 2
    keys = first_keys(sort_keys(rows, torch.arange(517).expand(3, 517)), number, few)
    assert (keys % 2**32).tolist() == likeliest(rows, number)[1].tolist()


@pytest.mark.parametrize("number", [1, 5, 60])
def test_a_nan_row_disturbs_no_other(number):
    rows = torch.randn(5, 67)
    damaged = rows.clone()
    damaged[1] = math.nan
    damaged[3, 5] = math.nan
    values, ids = likeliest(damaged, number)
    expected_values, expected = likeliest(rows, number)
    assert torch.equal(ids[[0, 2, 4]], expected[[0, 2, 4]])
    assert torch.equal(values[[0, 2, 4]], expected_values[[0, 2, 4]])
    assert ((ids >= 0) & (ids < 67)).all()  # so that nothing reads beyond a row
    top, tokens, codes = largest(damaged)
    assert top.isnan().tolist() == [False, True, False, True, False]
    assert tokens[3] == 5
    assert codes.tolist() == [-1 if row in (1, 3) else tokens[row] for row in range(5)]
