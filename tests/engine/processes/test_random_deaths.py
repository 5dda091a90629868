"""Processes that are killed again and again, at any moment: each text is the one that it is alone."""

import random
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_texts import alone, ask
from process_engines import WAIT, kill, serving
from served import wait_until

from bitnet_jit.engine.text.processes import replica as replica_file
from bitnet_jit.engine.text.processes import restarts as restarts_file
from bitnet_jit.generation.sampling import Sampling

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 9),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logprobs=st.sampled_from([None, 2]),
)
REQUESTS = st.tuples(
    st.integers(0, 2), st.integers(1, 200), st.integers(100, 250), SAMPLINGS, st.sampled_from([None, "ngram"])
)


@contextmanager
def often():
    """Let processes end as often as they are told to, and start anew at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica_file, "MAX_DEATHS", 1000)
        patch.setattr(restarts_file, "MAX_ENDS", 1000)
        patch.setattr(restarts_file, "MAX_PAUSE_S", 0.05)
        yield


HISTORIES = {"requests": st.lists(REQUESTS, min_size=6, max_size=12), "seed": st.integers(0, 99)}


@settings(max_examples=1)
@given(**HISTORIES)
def test_ten_deaths_at_any_moment(requests, seed):
    run_history(requests, seed)


@pytest.mark.exhaustive
@settings(max_examples=20)
@given(**HISTORIES)
def test_many_deaths_at_any_moment(requests, seed):
    run_history(requests, seed)


def run_history(requests, seed):
    """Have requests written while processes are killed; the texts are those that each gets alone."""
    moments = random.Random(seed)
    with often(), serving(2, max_running=4, num_pages=20, step_tokens=70) as (engine, members):
        deaths = threading.Thread(target=kill_often, args=(members, moments, 10))
        deaths.start()
        handles = []
        for request in requests:
            handles.append(ask(engine, request))
            time.sleep(moments.uniform(0, 0.2))
        texts = [handle.result(WAIT).tokens for handle in handles]
        assert texts == [alone(*request[:4]) for request in requests]
        deaths.join(WAIT)
        again = ask(engine, requests[0]).result(WAIT).tokens
        assert again == alone(*requests[0][:4])
        stats = engine.stats()["tiny"]
        assert (stats.finished, stats.failed) == (len(requests) + 1, 0)
        assert stats.restarts >= 5


def kill_often(members, moments, number):
    """Kill processes, running or loading, one after another."""
    for _ in range(number):
        time.sleep(moments.uniform(0, 1.0))
        wait_until(lambda: kill(moments.choice(members)), WAIT)
