"""Errors in a step that no device has made: they reach the requests of that step, and leave nothing wrong behind."""

import pytest
from faulty_runner import BUG, MOMENTS, NO_MEMORY, FaultyRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_texts import alone, ask, decoder

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.errors import RequestFailed
from bitnet_jit.generation.sampling import Sampling

WAIT = 30  # seconds for a token, which take milliseconds
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 9),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    logprobs=st.sampled_from([None, 2]),
)
REQUESTS = st.tuples(
    st.integers(0, 1), st.integers(1, 200), st.integers(1, 40), SAMPLINGS, st.sampled_from([None, "ngram"])
)


@settings(max_examples=20)
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=8),
    bugs=st.lists(st.tuples(st.integers(0, 25), st.sampled_from(MOMENTS), st.sampled_from([BUG, BUG, NO_MEMORY]))),
    pages=st.integers(5, 20),
    kept=st.booleans(),
    replicas=st.integers(1, 2),
)
def test_they_reach_the_requests_of_the_step_and_no_others(requests, bugs, pages, kept, replicas):
    config = EngineConfig(num_pages=pages, prefix_cache=kept, max_running=4, step_tokens=70)
    with InferenceEngine(config) as engine:
        group = engine.add_model("tiny", decoder(), replicas=[decoder()] * (replicas - 1)).replica
        runners = [FaultyRunner(replica) for replica in group.members]
        steps = {step: (moment, kind) for step, moment, kind in bugs if kind == BUG}
        steps |= {step: (moment, kind) for step, moment, kind in bugs[:2] if kind == NO_MEMORY}
        runners[0].armed.extend(steps.get(step, (None, None)) for step in range(26))
        submitted = []
        submit = group.submit
        group.submit = lambda request: (submitted.append(request), submit(request))
        handles = [ask(engine, request) for request in requests]
        failed = [outcome(handle, request) for handle, request in zip(handles, requests, strict=True)]
        for request, has_failed in zip(submitted, failed, strict=True):
            assert not has_failed or any(request.sequence is sequence for sequence in runners[0].hit)
        stats = engine.stats()["tiny"]
        assert (stats.failed, stats.finished, stats.alive) == (sum(failed), len(failed) - sum(failed), True)
        assert (stats.pages_used, stats.running, stats.waiting) == (stats.pages_kept, 0, 0)
        runners[0].armed.clear()
        for request in requests:  # whatever was kept of those that failed
            assert ask(engine, request).result(WAIT).tokens == alone(*request[:4])


def outcome(handle, request):
    """Return whether a request has failed; what it got is right in any case."""
    tokens, expected, failure = [], alone(*request[:4]), None
    try:
        for piece in handle:
            tokens.append(piece.token)
    except RequestFailed as error:
        failure = str(error)
    assert failure is None or "it was injected" in failure
    assert tokens == expected if failure is None else tokens == expected[: len(tokens)]
    return failure is not None


@pytest.mark.parametrize("moment", MOMENTS)
def test_all_requests_of_the_step_are_told(moment):
    """And those that wait go on."""
    with InferenceEngine(EngineConfig(max_running=3)) as engine:
        runner = FaultyRunner(engine.add_model("tiny", decoder()).replica)
        request = (0, 9, 400, Sampling(), None)
        handles = [ask(engine, request) for _ in range(3)]
        for handle in handles:
            next(iter(handle))
        handles += [ask(engine, request) for _ in range(3)]
        runner.armed.append((moment, BUG))
        assert [outcome_of_rest(handle) for handle in handles] == [True] * 3 + [False] * 3
        assert len(runner.hit) == 3


def outcome_of_rest(handle):
    """Return whether a request that has begun fails."""
    try:
        return len(handle.result(WAIT).tokens) != 400
    except RequestFailed:
        return True
