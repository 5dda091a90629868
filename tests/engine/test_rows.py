"""Rows of many inputs: batches hold every row once and in order, none is larger than asked, outputs keep shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.engine.tensors.rows import Rows
from bitnet_jit.errors import InvalidInput

LEADINGS = st.lists(
    st.one_of(st.tuples(), st.tuples(st.integers(0, 40)), st.tuples(st.integers(0, 5), st.integers(0, 5)))
)


def numbered(leadings):
    """Return tensors (*leading, 2) whose rows hold their number among all rows, and its negative."""
    tensors, row = [], 0
    for leading in leadings:
        rows = torch.Size(leading).numel()
        numbers = torch.arange(row, row + rows, dtype=torch.float32)
        tensors.append(torch.stack((numbers, -numbers), -1).reshape(*leading, 2))
        row += rows
    return tensors


@given(LEADINGS, st.integers(1, 50), st.one_of(st.none(), st.integers(1, 30)), st.randoms(use_true_random=False))
def test_every_row_is_run_once_and_comes_back_in_its_place(leadings, size, alone, random):
    xs = numbered(leadings)
    rows, seen = Rows(xs), []
    while pieces := rows.take(size, alone):
        joined = torch.cat(rows.parts(pieces))
        assert len(joined) == rows.taken == sum(stop - start for _, start, stop in pieces)
        assert len(joined) <= size or (alone is not None and len(pieces) == 1 and len(joined) >= alone)
        if random.random() < 0.3:  # the batch could not be run: it is taken again, smaller
            rows.rewind(pieces)
            size = max(1, size // 2)
            continue
        seen += joined[:, 0].tolist()
        rows.put(pieces, torch.cat((joined * 2, joined), dim=1))
    assert seen == list(range(len(seen)))
    assert len(seen) == sum(torch.Size(leading).numel() for leading in leadings)
    for x, y in zip(xs, rows.outputs(), strict=True):
        assert torch.equal(y, torch.cat((x * 2, x), dim=-1))


@given(st.lists(st.integers(1, 40), min_size=1), st.integers(1, 50))
def test_batches_are_three_quarters_full_but_for_the_last(counts, size):
    rows, sizes = Rows([torch.zeros(rows, 1) for rows in counts]), []
    while rows.take(size):
        sizes.append(rows.taken)
    assert all(4 * rows >= 3 * size for rows in sizes[:-1])


def test_rows_of_one_input_are_not_copied():
    x = torch.zeros(10, 3)
    rows = Rows([x])
    (part,) = rows.parts(rows.take(4))
    assert part.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("xs", "words"),
    [
        (7, "xs: expected a sequence"),
        ([torch.ones(2, 3), 5], r"xs\[1\]: expected a tensor, got 5"),
        ([torch.tensor(1.0)], r"xs\[0\]: expected at least 1 dimensions"),
        ([torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4)], r"xs\[2\]: .*\(3,\).*\(4,\)"),
        ([torch.ones(3), torch.ones(3, dtype=torch.float16)], r"xs\[1\]: .*float32.*float16"),
        ([torch.ones(3), torch.ones(3, device="meta")], r"xs\[1\]: .*cpu.*meta"),
    ],
)
def test_inputs_that_cannot_be_joined_are_named(xs, words):
    with pytest.raises(InvalidInput, match=words):
        Rows(xs)
