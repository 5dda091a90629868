"""A model with states beside pages: what it writes is the same in company, where pages are short, and behind errors."""

import tempfile
from functools import cache

import pytest
from faulty_runner import BUG, MOMENTS, NO_MEMORY, FaultyRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen35_models import random_model

import bitnet_jit
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.errors import InvalidInput

WAIT = 60  # seconds for a text
REQUESTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 150), st.integers(1, 30)), min_size=1, max_size=6)


@cache
def decoder():
    with tempfile.TemporaryDirectory() as folder:
        random_model().save_pretrained(folder)
        return bitnet_jit.load(folder)


@cache
def prompt_of(start, length):
    return tuple((start * 31 + 7 * place * place) % 256 for place in range(length))


@cache
def alone(start, length, limit):
    return decoder().generate(list(prompt_of(start, length)), limit).tolist()[length:]


def texts_of(engine, requests):
    handles = [engine.submit("states", list(prompt_of(start, length)), limit) for start, length, limit in requests]
    return [handle.result(WAIT).tokens for handle in handles]


@settings(max_examples=8)
@given(requests=REQUESTS, running=st.integers(1, 4), pages=st.integers(4, 9), step=st.integers(1, 100))
def test_every_text_is_the_one_that_it_is_alone(requests, running, pages, step):
    config = EngineConfig(max_running=running, num_pages=pages, step_tokens=step)
    with InferenceEngine(config) as engine:
        replica = engine.add_model("states", decoder()).replica
        assert texts_of(engine, requests) == [alone(*request) for request in requests]
        assert len(replica._runner.cache.slots._free) == running


@pytest.mark.parametrize("kind", [BUG, NO_MEMORY])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_step_that_fails_once_is_computed_anew(moment, kind):
    requests = [(0, 70, 9), (1, 5, 30), (2, 140, 9)]
    with InferenceEngine(EngineConfig(max_running=4, step_tokens=50)) as engine:
        runner = FaultyRunner(engine.add_model("states", decoder()).replica)
        runner.armed.extend([(None, None)] * 3 + [(moment, kind)] + [(None, None)] * 4 + [(moment, kind)])
        assert texts_of(engine, requests) == [alone(*request) for request in requests]
        assert not runner.armed


def test_memory_for_states_is_counted():
    small = EngineConfig(memory_pool_bytes=2**16, max_running=4)
    with (
        InferenceEngine(small) as engine,
        pytest.raises(InvalidInput, match="beside the states of max_running=4 texts"),
    ):
        engine.add_model("states", decoder())


def test_guesses_are_left_out():
    with InferenceEngine(EngineConfig()) as engine:
        engine.add_model("states", decoder())
        handle = engine.submit("states", list(prompt_of(0, 40)), 20, speculate="ngram")
        assert handle.result(WAIT).tokens == alone(0, 40, 20)
