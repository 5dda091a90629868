"""Texts by a schema and embeddings where devices fail and memory is short: what comes is what comes alone."""

import json

import jsonschema
import torch
from faulty_runner import MOMENTS, NO_MEMORY
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_texts import decoder

from bitnet_jit.engine import Grammar, InferenceEngine
from bitnet_jit.generation.sampling import Sampling
from tests.engine.devices.test_replicas import FAULTS, WAIT, arm, make_engine

SCHEMA = {"type": "array", "items": {"enum": ["Abraham", "Isaac", 7]}, "minItems": 2, "maxItems": 4}
TEXTS = ("x", "In the beginning ", "And it came to pass in those days " * 5)
JSONS = st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 3), st.sampled_from([None, "ngram"]))


def by_schema(engine, temperature, seed, speculate=None):
    """Ask for a text by the schema."""
    grammar = Grammar.json_schema(SCHEMA)
    options = Sampling(temperature=temperature, seed=seed)
    return engine.submit("tiny", "And he begat ", 100, options, grammar=grammar, speculate=speculate)


@settings(max_examples=8)
@given(
    requests=st.lists(JSONS | st.sampled_from(TEXTS), min_size=1, max_size=8),
    fatal=st.lists(FAULTS, max_size=2),
    kinds=st.tuples(*[st.sampled_from(["device", "killed"])] * 2),
    short=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25), st.sampled_from(MOMENTS)), max_size=3),
    pages=st.integers(5, 20),
)
def test_nothing_is_lost_or_changed(requests, fatal, kinds, short, pages):
    engine, runners = make_engine(3, num_pages=pages, max_running=4, step_tokens=30)
    with engine, InferenceEngine() as calm:
        calm.add_model("tiny", decoder())
        for number, step, moment in short:
            arm(runners[number], step, moment, NO_MEMORY)
        for runner, kind, (step, moment) in zip(runners, kinds, fatal, strict=False):
            arm(runner, step, moment, kind)
        handles = [
            engine.submit_embedding("tiny", request) if isinstance(request, str) else by_schema(engine, *request)
            for request in requests
        ]
        for request, handle in zip(requests, handles, strict=True):
            result = handle.result(WAIT)
            if isinstance(request, str):
                assert torch.equal(result, calm.embed("tiny", [request])[0])
            else:
                assert result.tokens == by_schema(calm, *request[:2]).result().tokens
                assert result.finish_reason == "stop"
                jsonschema.validate(json.loads(result.text), SCHEMA)
        stats = engine.stats()["tiny"]
        assert (stats.finished, stats.failed, stats.waiting, stats.running) == (len(requests), 0, 0, 0)
        assert stats.pages_used == stats.pages_kept
