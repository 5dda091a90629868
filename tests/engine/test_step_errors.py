"""Errors in a step that no device has made: they reach the requests that they belong to, and leave nothing wrong."""

import pytest
import torch
from faulty_runner import BUG, MOMENTS, NO_MEMORY, FaultyRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_texts import alone, ask, decoder

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.grammar.grammar import Matcher
from bitnet_jit.errors import RequestFailed
from bitnet_jit.generation.sampling import Sampling
from tests.engine.devices.test_other_requests import by_schema

WAIT = 30  # seconds for a token, which take milliseconds
CURSES = (*MOMENTS, "adding")
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


class Faulty:
    """An engine whose requests can be cursed before it sees them."""

    def __init__(self, **options):
        self.engine = InferenceEngine(EngineConfig(**options))
        self.replica = self.engine.add_model("tiny", decoder()).replica
        self.runner = FaultyRunner(self.replica)
        self.next = lambda request: None
        submit = self.replica.submit
        self.replica.submit = lambda request: (self.next(request), submit(request))

    def ask(self, request, curse=None):
        """Submit (start, length, limit, sampling, speculate), an embedding's text, or what else; curse it first."""
        self.next = (lambda made: self.runner.cursed.update({made: curse})) if curse else lambda made: None
        return request(self.engine) if callable(request) else ask(self.engine, request)

    def is_left_clean(self):
        """Return whether no request has left anything behind, and all texts are right again."""
        self.runner.armed.clear()
        self.runner.cursed.clear()
        stats = self.engine.stats()["tiny"]
        assert (stats.pages_used, stats.running, stats.waiting) == (stats.pages_kept, 0, 0)
        assert not self.runner.sampler._requests
        return self.ask((0, 70, 9, Sampling(), None)).result(WAIT).tokens == alone(0, 70, 9, Sampling())


@settings(max_examples=8)
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
        failed = [outcome(handle, alone(*request[:4])) for handle, request in zip(handles, requests, strict=True)]
        for request, has_failed in zip(submitted, failed, strict=True):
            hits = sum(request.sequence is sequence for sequence in runners[0].hit)
            assert not has_failed or hits >= 2  # one error alone ends nobody
        stats = engine.stats()["tiny"]
        assert (stats.failed, stats.finished, stats.alive) == (sum(failed), len(failed) - sum(failed), True)
        assert (stats.pages_used, stats.running, stats.waiting) == (stats.pages_kept, 0, 0)
        runners[0].armed.clear()
        for request in requests:  # whatever was kept of those that failed
            assert ask(engine, request).result(WAIT).tokens == alone(*request[:4])


def outcome(handle, expected):
    """Return whether a request has failed; what it got is right in any case."""
    tokens, failure = [], None
    try:
        for piece in handle:
            tokens.append(piece.token)
    except RequestFailed as error:
        failure = str(error)
    assert failure is None or "it was injected" in failure
    assert tokens == expected if failure is None else tokens == expected[: len(tokens)]
    return failure is not None


@pytest.mark.parametrize("moment", CURSES)
@pytest.mark.parametrize("speculate", [None, "ngram"])
def test_one_request_of_eight_fails_alone(moment, speculate):
    faulty = Faulty()
    with faulty.engine:
        requests = [(number, 20, 60, Sampling(temperature=0.5, seed=number), speculate) for number in range(8)]
        curse = (moment, 0 if moment == "adding" else 20)
        handles = [faulty.ask(request, curse if request[0] == 5 else None) for request in requests]
        failed = [outcome(handle, alone(*request[:4])) for handle, request in zip(handles, requests, strict=True)]
        assert failed == [number == 5 for number in range(8)]
        assert faulty.is_left_clean()


@pytest.mark.parametrize("moment", CURSES)
@pytest.mark.parametrize("cursed", [{0, 1}, {0, 7}, {2, 3, 6}, set(range(8))])
def test_several_of_eight_fail_within_few_steps(moment, cursed):
    faulty = Faulty()
    with faulty.engine:
        curses = [(moment, 0) if number in cursed else None for number in range(8)]
        handles = [faulty.ask((number, 20, 9, Sampling(), None), curse) for number, curse in enumerate(curses)]
        failed = [outcome(handle, alone(number, 20, 9, Sampling())) for number, handle in enumerate(handles)]
        assert failed == [number in cursed for number in range(8)]
        steps = faulty.runner.steps
        assert steps <= 16 if len(cursed) == 8 else steps <= 16 + 2 * 9  # requests may begin in two steps
        assert faulty.is_left_clean()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [1, 2, 7])
def test_an_error_that_comes_once_ends_nobody(moment, number):
    faulty = Faulty()
    with faulty.engine:
        handles = [faulty.ask((start, 9, 50, Sampling(), "ngram")) for start in range(number)]
        for handle in handles:
            next(iter(handle))
        faulty.runner.armed.append((moment, BUG))
        texts = [handle.result(WAIT).tokens for handle in handles]
        assert texts == [alone(start, 9, 50, Sampling()) for start in range(number)]
        assert not faulty.runner.armed
        assert faulty.is_left_clean()


class Broken:
    """A stop rule or a grammar that fails at each call of one method."""

    def __init__(self, whole, name):
        self._whole, self._name = whole, name

    def __getattr__(self, name):
        if name == self._name:
            raise ZeroDivisionError("a bug: it was injected")
        return getattr(self._whole, name)


@pytest.mark.parametrize(
    ("part", "method"), [("rule", "ends_with"), ("matcher", "take"), ("matcher", "masks"), ("ngrams", "following")]
)
def test_parts_of_a_request_fail_it_alone(part, method):
    """But for guesses, which are made no more."""
    faulty = Faulty()
    with faulty.engine, InferenceEngine() as calm:
        calm.add_model("tiny", decoder())
        handles = []
        for number in range(5):
            faulty.next = lambda made, number=number: (
                setattr(made, part, Broken(getattr(made, part), method)) if number == 2 else None
            )
            handles.append(by_schema(faulty.engine, 1.0, number, "ngram"))
        expected = [by_schema(calm, 1.0, number).result().tokens for number in range(5)]
        failed = [outcome(handle, tokens) for handle, tokens in zip(handles, expected, strict=True)]
        assert failed == [number == 2 and part != "ngrams" for number in range(5)]
        faulty.next = lambda made: None
        assert faulty.is_left_clean()


def test_guesses_that_fail_within_their_masks_leave_no_trace(monkeypatch):
    """The grammar has taken some of them by then."""
    faulty = Faulty()
    seen = []

    def failing(self, guesses=()):
        if len(guesses) > 1 and not seen:
            seen.append(guesses)
            matcher, self._matcher = self._matcher, FailsInTheMiddle(self._matcher)
            try:
                return masks(self, guesses)
            finally:
                self._matcher = matcher
        return masks(self, guesses)

    with faulty.engine, InferenceEngine() as calm:
        calm.add_model("tiny", decoder())
        expected = [by_schema(calm, 0.0, number).result().tokens for number in range(3)]
        masks = Matcher.masks
        monkeypatch.setattr(Matcher, "masks", failing)
        handles = [by_schema(faulty.engine, 0.0, number, "ngram") for number in range(3)]
        assert [handle.result(WAIT).tokens for handle in handles] == expected
        assert seen


class FailsInTheMiddle:
    """A matcher of llguidance whose second mask fails."""

    def __init__(self, matcher):
        self._matcher, self._masks = matcher, 0

    def __getattr__(self, name):
        return getattr(self._matcher, name)

    def unsafe_compute_mask_ptr(self, *arguments):
        self._masks += 1
        if self._masks == 2:
            raise ZeroDivisionError("a bug: it was injected")
        return self._matcher.unsafe_compute_mask_ptr(*arguments)


def embed(engine):
    return engine.submit_embedding("tiny", "And it came to pass in those days " * 5)


OTHERS = st.sampled_from([embed, lambda engine: by_schema(engine, 1.0, 3, "ngram")])


@settings(max_examples=15)
@given(
    requests=st.lists(
        st.tuples(REQUESTS | OTHERS, st.none() | st.tuples(st.sampled_from(CURSES), st.integers(0, 30))),
        min_size=1,
        max_size=9,
    ),
    pages=st.integers(5, 20),
    step_tokens=st.sampled_from([7, 70]),
    kept=st.booleans(),
)
def test_only_cursed_requests_fail(requests, pages, step_tokens, kept):
    faulty = Faulty(num_pages=pages, prefix_cache=kept, max_running=5, step_tokens=step_tokens)
    with faulty.engine, InferenceEngine() as calm:
        calm.add_model("tiny", decoder())
        handles = [faulty.ask(request, curse) for request, curse in requests]
        for (request, curse), handle in zip(requests, handles, strict=True):
            if request is embed:
                check_embedding(handle, embed(calm).result(WAIT), curse in [(moment, 0) for moment in MOMENTS[:4]])
            else:
                expected = request(calm).result(WAIT).tokens if callable(request) else alone(*request[:4])
                has_failed = outcome(handle, expected)
                assert not has_failed or curse is not None
                if curse is not None and curse[0] in MOMENTS and not callable(request) and request[4] is None:
                    assert has_failed == (curse[1] < len(expected))
        assert faulty.is_left_clean()


def check_embedding(handle, expected, is_cursed):
    """Check an embedding, or that there is none."""
    if not is_cursed:
        assert torch.equal(handle.result(WAIT), expected)
        return
    with pytest.raises(RequestFailed, match="it was injected"):
        handle.result(WAIT)
