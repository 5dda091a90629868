"""Rotary positions that are no numbers: the error names the field and its value, wherever a config comes from."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.config import RopeScaling
from bitnet_jit.models.rope import Rope, check_rope
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

CONFIG = TrainSettings(layers=1, hidden_size=32, intermediate_size=32, heads=2, context_length=64, window=8).decoder()
SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16)

BAD_THETA = [1e-320, 1e-46, 1e-44, 1e300, 1e39, math.nan, math.inf, 0.0]
BAD_SCALING = {"factor": [1e-320, 1e-45, 1e300, 1e45, math.nan], "low_freq_factor": [math.nan]}


@pytest.mark.parametrize("theta", BAD_THETA)
def test_a_base_without_angles_is_refused(theta):
    for make in (check_rope, Rope, TrainedDecoder):
        with pytest.raises(InvalidInput, match="rope_theta: expected a base whose rotary frequencies .* got"):
            make(replace(CONFIG, rope_theta=theta))


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD_SCALING.items() for value in values]
)
def test_factors_without_angles_are_refused(field, value):
    config = replace(CONFIG, rope_scaling=replace(SCALING, **{field: value}))
    with pytest.raises(
        InvalidInput, match=f"rope_scaling: expected factors that keep .*{field}={re.escape(repr(value))}"
    ):
        Rope(config)


@pytest.mark.parametrize("theta", [value for value in BAD_THETA if 0 < value < math.inf])
@pytest.mark.parametrize("place", ["rope_theta", "rope_parameters", "rope_scaling"])
def test_load_refuses_such_a_base(write_checkpoint, theta, place):
    fields = {"rope_theta": theta} if place == "rope_theta" else {place: {"rope_type": "default", "rope_theta": theta}}
    folder = write_checkpoint(model_type="llama", **fields)
    with pytest.raises(
        CheckpointError, match=f"config.json: rope_theta: expected a base .* got {re.escape(repr(theta))}"
    ):
        bitnet_jit.load(folder)


@pytest.mark.parametrize("field", ["factor", "low_freq_factor", "high_freq_factor"])
@pytest.mark.parametrize("value", [1e-320, 1e-45, 1e45, 1e300])
@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_load_computes_numbers_or_refuses(write_checkpoint, field, value, place):
    said = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    said["original_max_position_embeddings"] = 16
    folder = write_checkpoint(model_type="llama", **{place: {**said, field: value}})
    error, decoder = loaded(folder)
    if decoder is None:
        assert re.search(f"{field}.*{re.escape(repr(value))}|high_freq_factor: expected a number above", str(error))
    else:
        assert all_finite(decoder.rope, decoder.config.context_length)


def loaded(folder):
    """Load a folder; return the error and no decoder, or no error and the decoder."""
    try:
        return None, bitnet_jit.load(folder)
    except CheckpointError as error:
        return error, None


def all_finite(rope, length):
    tables = rope.tables(length)
    return bool(torch.stack(tables).isfinite().all()) and bool((rope.frequencies > 0).all())


POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)


@given(
    theta=POSITIVE,
    scaling=st.none() | st.builds(RopeScaling, POSITIVE, POSITIVE, POSITIVE, st.integers(1, 2**31 - 1)),
    head_dim=st.sampled_from([2, 4, 64, 128]),
    context_length=st.integers(1, 300),
)
def test_what_is_taken_has_tables_of_numbers(theta, scaling, head_dim, context_length):
    config = replace(CONFIG, rope_theta=theta, rope_scaling=scaling, head_dim=head_dim, context_length=context_length)
    try:
        rope = Rope(config)
    except InvalidInput:
        return
    assert all_finite(rope, context_length)


@pytest.mark.parametrize("theta", [1e-3, 1.0, 10_000.0, 500_000.0, 1e9])
@pytest.mark.parametrize("scaling", [None, SCALING])
def test_bases_in_use_are_taken(theta, scaling):
    rope = Rope(replace(CONFIG, rope_theta=theta, rope_scaling=scaling, context_length=131_072, head_dim=128))
    assert all_finite(rope, 1024)
