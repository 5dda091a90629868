"""Positions and tables of captured steps: the device has what was asked for, and is sent only what differs."""

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.step_numbers import StepNumbers

ROWS, WIDTH = 5, 3
# of some sequences: a length, and its pages
STATE = st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=WIDTH)), max_size=ROWS)
MOVES = st.lists(st.tuples(st.sampled_from(["on", "on", "again", "new"]), STATE), min_size=1, max_size=8)


def sequences(state):
    """Return sequences of lengths and pages; a slot is any number that goes with them."""
    return [PagedSequence(pages, length, slot=7 * len(pages)) for length, pages in state]


def assert_loaded(numbers, state):
    """Compare the tensors of a step with what was asked for."""
    unused = ROWS - len(state)
    assert numbers.positions.tolist() == [length for length, _ in state] + [-1] * unused
    slots = [sequence.slot for sequence in sequences(state)]
    assert numbers.slots.tolist()[: len(state)] == slots
    for row, (_, pages) in zip(numbers.tables.tolist(), state, strict=False):
        assert row[: len(pages)] == pages


@example(moves=[("on", []), ("on", []), ("again", [])], raised=True, fates=["well", "after", "well"])
@given(moves=MOVES, raised=st.booleans(), fates=st.lists(st.sampled_from(["well", "before", "after"]), min_size=8))
def test_the_device_has_what_was_asked_for(moves, raised, fates):
    """Steps that end well, and some that end with an error before or after they raised positions."""
    numbers, state = StepNumbers(ROWS, WIDTH, torch.device("cpu"), raised), [(5, [1, 2])]
    for (move, new), fate in zip(moves, fates, strict=False):
        state = new if move == "new" else [(length + (move == "on"), pages) for length, pages in state]
        numbers.load(sequences(state))
        assert_loaded(numbers, state)
        if raised and fate != "before":
            numbers.positions.add_(numbers.positions >= 0)
            if fate == "well":
                numbers.advanced()


def test_only_what_differs_is_copied():
    numbers = StepNumbers(ROWS, WIDTH, torch.device("cpu"), raised=True)
    numbers.load(sequences([(3, [1]), (9, [2, 0])]))
    for step in range(1, 4):
        numbers.advanced()
        numbers.positions.fill_(77)  # stands for what a step wrote, and shows a copy
        numbers.load(sequences([(3 + step, [1]), (9 + step, [2, 0])]))
        assert numbers.positions.tolist() == [77] * ROWS
    numbers.advanced()
    numbers.load(sequences([(7, [1]), (13, [2, 1])]))
    assert_loaded(numbers, [(7, [1]), (13, [2, 1])])
