"""The gated DeltaNet in MLX's own operations: against the reference, and the same bits in any schedule."""

import pytest
import torch
from delta_calls import (
    Heads,
    assert_near,
    assert_same_bits,
    expected_of,
    make_texts,
    run_kernel,
    run_schedule,
    schedules,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_calls import KERNELS

MODELS = (Heads(1, 2, 8, 16), Heads(1, 3, 5, 7, 3), Heads(2, 2, 17, 33, 2, torch.bfloat16), Heads(2, 4, 8, 3, 4))
LENGTHS = (1, 2, 3, 17)
few = settings(max_examples=min(settings.default.max_examples, 5))


def run(arguments):
    """Call the kernel on torch tensors, whose caches it writes."""
    return run_kernel(KERNELS["mlx.plain_delta_net"], arguments)


@pytest.mark.parametrize("model", MODELS, ids=str)
@few
@given(data=st.data())
def test_it_computes_what_the_reference_does(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=2))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from((1e-3, 1, 8))))
    caches = texts.caches()
    for parts, padding, spread in data.draw(schedules(lengths)):
        arguments = texts.call(parts, caches, padding, spread)
        expected = expected_of(arguments)
        assert_near(run(arguments), caches, expected, model.dtype)


@pytest.mark.parametrize("model", MODELS, ids=str)
@few
@given(data=st.data())
def test_any_schedule_gives_the_same_bits(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=2))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    first, second = (run_schedule(run, texts, data.draw(schedules(lengths))) for _ in range(2))
    assert_same_bits(first, second)
