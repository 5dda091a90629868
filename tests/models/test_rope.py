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
from bitnet_jit.models.rope import Rope, check_rope
from bitnet_jit.models.rope_scaling import (
    DividedScaling,
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
    longrope_magnitude,
    yarn_magnitude,
)
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

CONFIG = TrainSettings(layers=1, hidden_size=32, intermediate_size=32, heads=2, context_length=64, window=8).decoder()
SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16)

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
    scaling=st.none() | st.builds(Llama3Scaling, POSITIVE, POSITIVE, POSITIVE, st.integers(1, 2**31 - 1)),
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


OTHERS = {
    "linear": (LinearScaling(4.0), {"factor": 4.0}),
    "llama3": (Llama3Scaling(8.0, 1.0, 4.0, 16), {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    "yarn": (YarnScaling(4.0, 16, magnitude=yarn_magnitude(4.0)), {"factor": 4.0}),
    "yarn, bounds as they are": (
        YarnScaling(4.0, 64, 8.0, 2.0, 0.5, truncate=False),
        {"factor": 4.0, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 0.5, "truncate": False},
    ),
    "longrope": (
        DividedScaling((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), longrope_magnitude(4.0, 16)),
        {"factor": 4.0, "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], "short_factor": [1.0] * 8},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("theta", [100.0, 5e5])
def test_frequencies_are_those_of_transformers(name, theta):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, said = OTHERS[name]
    kind, original = name.split(",")[0], getattr(scaling, "original_context", 16)
    parameters = {"rope_type": kind, "rope_theta": theta, "original_max_position_embeddings": original, **said}
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=2, max_position_embeddings=4 * original, rope_parameters=parameters
    )
    expected, magnitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=4 * original)
    rope = Rope(replace(CONFIG, rope_theta=theta, rope_scaling=scaling, head_dim=16))
    torch.testing.assert_close(rope.frequencies, expected, rtol=1e-6, atol=0)
    cosines, _ = rope.tables(3)
    torch.testing.assert_close(cosines[2, 0, :8], (2 * expected).cos() * magnitude)


def test_divisors_that_are_no_pairs_are_refused():
    with pytest.raises(InvalidInput, match="rope_scaling: expected 8 divisors, one per pair .*, got 3"):
        check_rope(replace(CONFIG, rope_scaling=DividedScaling((1.0, 2.0, 3.0))))
