"""Processes that end while they write: each text comes once, whole, and is the one that it is alone."""

import re

import pytest
from lone_texts import alone, ask, prompt_of
from process_engines import WAIT, kill, kill_and_wait, serving, wait_ready
from served import wait_until

from bitnet_jit.engine.grammar.grammar import Grammar
from bitnet_jit.engine.text.processes import replica as replica_file
from bitnet_jit.engine.text.processes import restarts as restarts_file
from bitnet_jit.errors import DeviceFailed, RequestCancelled, RequestTimeout
from bitnet_jit.generation.sampling import Sampling

MIXED = [
    (start, length, 150, Sampling(temperature=temperature, seed=start, frequency_penalty=penalty, logprobs=1), guesses)
    for start, (length, temperature, penalty, guesses) in enumerate(
        [(5, 0.0, 0.0, None), (90, 0.9, 0.4, None), (9, 0.9, 0.0, "ngram"), (200, 0.0, 0.0, "ngram")] * 2
    )
]


def begun(handles):
    """Wait for the first token of each; return iterators of the others."""
    iterators = [iter(handle) for handle in handles]
    for iterator in iterators:
        next(iterator)
    return iterators


@pytest.mark.parametrize("replicas", [2, 1])
def test_a_process_that_is_killed_costs_no_text(replicas, caplog):
    """Though it may be the only one: its requests wait for the next one."""
    with serving(replicas) as (engine, members):
        handles = [ask(engine, request) for request in MIXED]
        begun(handles)
        dead = members[0].pid
        assert kill(members[0])
        texts = [handle.result(WAIT) for handle in handles]
        assert [text.tokens for text in texts] == [alone(*request[:4]) for request in MIXED]
        assert all(len(text.logprobs) == len(text.tokens) for text in texts)
        wait_ready(members)
        stats = engine.stats()["tiny"]
        assert (stats.finished, stats.failed, stats.waiting, stats.running) == (len(MIXED), 0, 0, 0)
        assert (stats.replicas, stats.replicas_alive, stats.alive, stats.restarts) == (replicas, replicas, True, 1)
        assert stats.new_tokens == sum(len(text.tokens) for text in texts)
        assert members[0].pid != dead
        again = [engine.submit("tiny", prompt_of(0, 9), 40) for _ in range(4)]
        assert [handle.result(WAIT).tokens for handle in again] == [alone(0, 9, 40, Sampling())] * 4
        assert members[0].stats().finished >= 2, "it serves again"
    (words,) = [record.getMessage() for record in caplog.records if "started anew" in record.getMessage()]
    assert re.search(
        r"bitnet-jit tiny 0 on cpu: its process has ended \(exit code -9, SIGKILL\); its \d+ requests", words
    )
    assert any("runs again" in record.getMessage() for record in caplog.records)


def test_grammars_stops_prompts_and_embeddings_go_on_too():
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 40}
    options = [
        {"grammar": Grammar.json_schema(schema), "sampling": Sampling(temperature=0.9, seed=1)},
        {"stop": "NEVER IN HERE"},
        {"prompt_logprobs": 1, "speculate": "ngram"},
    ]
    with serving(1) as (engine, (member,)):

        def submit():
            return [engine.submit("tiny", prompt_of(0, 30), 150, **each) for each in options]

        expected = [handle.result(WAIT) for handle in submit()]
        vector = engine.embed("tiny", [prompt_of(0, 250)])
        handles = submit()
        begun(handles)
        kill(member)
        embedding = engine.submit_embedding("tiny", prompt_of(0, 250))
        for handle, other in zip(handles, expected, strict=True):
            text = handle.result(WAIT)
            assert (text.tokens, text.text, text.finish_reason) == (other.tokens, other.text, other.finish_reason)
            assert text.prompt_logprobs == other.prompt_logprobs
        assert embedding.result(WAIT).tolist() == vector[0].tolist()


def test_deaths_with_tokens_between_them_are_no_fault_of_a_text(monkeypatch):
    monkeypatch.setattr(replica_file, "MAX_DEATHS", 2)
    with serving(1) as (engine, (member,)):
        handle = engine.submit("tiny", prompt_of(0, 9), 900)
        for _ in range(2):
            before = member.stats().new_tokens
            wait_until(lambda: member.is_ready and member.stats().new_tokens > before)  # noqa: B023
            kill_and_wait(member)
        assert handle.result(WAIT).tokens == alone(0, 9, 900, Sampling())


def test_requests_wait_for_a_process_and_can_end_meanwhile(monkeypatch):
    monkeypatch.setattr(restarts_file, "PAUSE_S", 1.0)
    with serving(1) as (engine, (member,)):
        handle = engine.submit("tiny", prompt_of(0, 9), 200)
        wait_until(lambda: member.stats().steps > 3)
        before = member.stats()
        kill_and_wait(member)
        assert member.is_alive
        stats = engine.stats()["tiny"]
        assert stats.steps >= before.steps
        assert stats.prompt_tokens >= before.prompt_tokens > 0
        assert (stats.waiting, stats.running, stats.alive, stats.replicas_alive, stats.pages) == (1, 0, True, 0, 0)
        cancelled, late = engine.submit("tiny", "And ", 9), engine.submit("tiny", "And ", 9, timeout_s=0.2)
        early = engine.submit("tiny", prompt_of(0, 9), 40)
        cancelled.cancel()
        with pytest.raises(RequestCancelled):
            cancelled.result(0)
        with pytest.raises(RequestTimeout, match="its time has passed, and the text has 0 new tokens"):
            late.result(0.9)
        assert not member.is_ready
        assert early.result(WAIT).tokens == alone(0, 9, 40, Sampling())
        assert handle.result(WAIT).tokens == alone(0, 9, 200, Sampling())
        assert (member.stats().finished, member.stats().failed) == (2, 2)


def test_a_process_that_ends_again_and_again_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(restarts_file, "MAX_ENDS", 1)
    with serving(2) as (engine, members):
        kill_and_wait(members[0])
        wait_ready(members)
        kill_and_wait(members[0])
        assert not members[0].is_alive
        handles = [engine.submit("tiny", prompt_of(0, 9), 900) for _ in range(3)]
        begun(handles)
        kill_and_wait(members[1])
        wait_ready(members[1:])
        kill(members[1])
        for handle in handles:
            with pytest.raises(DeviceFailed, match="was not written to its end: its process has ended .*SIGKILL.*load"):
                handle.result(WAIT)
        with pytest.raises(DeviceFailed, match="the 2 replicas of the model have failed"):
            engine.submit("tiny", "And ", 5)
        stats = engine.stats()["tiny"]
        assert (stats.alive, stats.replicas_alive, stats.failed) == (False, 0, 3)
    assert any("tiny on cpu is out: its process has ended" in record.getMessage() for record in caplog.records)
