"""The parts of workers in processes: messages, errors, counts, and what is remembered of texts that were sent."""

import inspect
import io
import logging
import os
import pickle
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lone_texts import decoder, prompt_of

from bitnet_jit import errors
from bitnet_jit.engine.grammar.grammar import Grammars
from bitnet_jit.engine.text.asking import make_request, set_extras, set_terms
from bitnet_jit.engine.text.generation import End, TokenLogprobs
from bitnet_jit.engine.text.prefix_cache import keys_of
from bitnet_jit.engine.text.processes.channel import Channel
from bitnet_jit.engine.text.processes.child import request_of
from bitnet_jit.engine.text.processes.messages import Terms
from bitnet_jit.engine.text.processes.open_requests import OpenRequests
from bitnet_jit.engine.text.processes.outlet import Handle, Outlet, Records, portable
from bitnet_jit.engine.text.processes.restarts import MAX_ENDS, WITHIN_S, WORKED_S, Restarts
from bitnet_jit.engine.text.processes.sent_pages import SentPages
from bitnet_jit.engine.text.stats import ModelStats
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.problem import PAGE

ARGUMENTS = {
    errors.GenerationError: ({2: "NaN"}, [[1, 2], [3]]),
    errors.UnsupportedProblem: ("a problem", {"kernel": "too small"}),
}
CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, (Exception, Warning))]
VALUES = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.binary(max_size=300) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner),
)


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_are_the_same_in_another_process(kind):
    error = kind(*ARGUMENTS.get(kind, ("in words: 3",)))
    same = pickle.loads(pickle.dumps(error))
    assert (type(same), str(same), same.args, vars(same)) == (kind, str(error), error.args, vars(error))
    assert portable(error) is error


def test_errors_that_cannot_travel_leave_their_words():
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    assert str(portable(Odd(1, 2))) == "Odd('1 2')"
    assert type(portable(RuntimeError(threading.Lock()))) is errors.RequestFailed
    assert type(pickle.loads(pickle.dumps(portable(torch.OutOfMemoryError("none is left"))))) is torch.OutOfMemoryError


@given(st.lists(VALUES, max_size=5), st.integers(0, 400))
def test_messages_come_as_they_were_sent_and_whole(messages, cut):
    pipe = io.BytesIO()
    ends = []
    for message in messages:
        Channel(pipe, pipe).send(message)
        ends.append(pipe.tell())
    content = pipe.getvalue()
    channel = Channel(io.BytesIO(content[:cut]), pipe)
    whole = sum(end <= cut for end in ends)
    assert [channel.receive() for _ in range(whole)] == messages[:whole]
    with pytest.raises(EOFError):  # a part of a message is none
        channel.receive()


def test_who_writes_to_nobody_is_told():
    reading, writing = os.pipe()
    with open(reading, "rb") as incoming, open(writing, "wb", buffering=0) as outgoing:
        channel = Channel(incoming, outgoing)
        incoming.close()
        for _ in range(2):
            with pytest.raises(EOFError):
                channel.send("a")
            with pytest.raises(EOFError):
                channel.receive()
            outgoing.close()


class Pipe:
    """Keeps what an outlet sends."""

    def __init__(self):
        self.updates = []

    def send(self, update):
        self.updates.append(update)

    @property
    def items(self):
        return [item for update in self.updates for item in update.items]


def test_the_last_token_comes_with_the_end():
    """Else a process could die between them, and its text be written beyond its end."""
    pipe = Pipe()
    outlet = Outlet(pipe)
    handle = Handle(7, outlet, lambda: 64)
    handle.mailbox.put((1, None, False))
    logprobs = TokenLogprobs(-1.0, ((2, -0.5),))
    handle.put((2, logprobs, True))
    assert not any(item == (7, (2, logprobs, True)) for item in [*pipe.items, *outlet._items])
    end = End("stop", cached_tokens=64)
    handle.put(end)
    Handle(8, outlet, lambda: 0).put(End("", RuntimeError(threading.Lock())))
    outlet.finish()
    assert pipe.items[:4] == [(7, 64), (7, (1, None, False)), (7, (2, logprobs, True)), (7, end)]
    assert type(pipe.items[4][1].error) is errors.RequestFailed
    (update,) = [one for one in pipe.updates if (7, end) in one.items]
    assert (7, (2, logprobs, True)) in update.items


def test_steps_without_tokens_are_told_too_and_rest_is_silent():
    pipe = Pipe()
    outlet, steps = Outlet(pipe), [0]
    outlet.stats = lambda: ModelStats(0, 1, 9, 0, 0, 0, 0, 0, 0, steps[0], 0, 0, 0, 0, 0, 5.0, True)
    for number in (1, 2):
        steps[0] = number
        end = threading.Event()
        while not (pipe.updates and pipe.updates[-1].stats.steps == number):
            assert not end.wait(0.01)
    sent = len(pipe.updates)
    assert not end.wait(0.6)
    assert len(pipe.updates) == sent
    outlet.finish()


def test_log_records_travel_with_their_tracebacks():
    pipe = Pipe()
    outlet = Outlet(pipe)
    logger = logging.Logger("somebody")
    logger.addHandler(Records(outlet, logging.INFO))
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        logger.exception("%s of %d", threading.Lock, 3)
    logger.debug("nobody wants this")
    outlet.finish()
    (record,) = pickle.loads(pickle.dumps(pipe.items))
    assert record.getMessage() == f"{threading.Lock} of 3"
    assert "ZeroDivisionError: a bug" in logging.Formatter().format(record)


def test_requests_count_until_they_have_ended_or_are_anothers():
    """Else an engine that closes would end the workers to which they are on their way."""
    requests = [make_request(decoder(), prompt_of(0, 5), 9, None, ()) for _ in range(3)]
    held = OpenRequests()
    for request in requests:
        held.add(request)
    (first,) = held.take(requests[0].number)
    assert (len(held), held.take(first.number), held.get(first.number)) == (3, [], None)
    assert held.take_all() == requests[1:]
    assert (len(held), held.all()) == (3, [])
    held.put_down(1)
    waiting = threading.Thread(target=held.wait_idle)
    waiting.start()
    held.end([first], "stop")
    held.wait_idle(0.05)
    assert waiting.is_alive()
    assert len(held) == 1
    held.end(requests[1:2], error=errors.RequestCancelled("by its caller"))
    waiting.join(10)
    assert not waiting.is_alive()
    assert (len(held), held.finished, held.failed) == (0, 1, 1)
    assert first.generation.result(0).finish_reason == "stop"


def test_processes_are_started_anew_ever_later_and_at_last_no_more(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    restarts = Restarts()
    pauses = [restarts.pause(1.0) for _ in range(MAX_ENDS)]
    assert pauses == [0.25 * 2**number for number in range(MAX_ENDS)]
    assert restarts.pause(1.0) is None
    assert restarts.pause(WORKED_S + 1) == 0.25, "it had worked for a while"
    assert restarts.pause(1.0) == 0.5
    now[0] += WITHIN_S + 1
    assert restarts.pause(1.0) == 0.25
    restarts = Restarts()
    for _ in range(3 * MAX_ENDS):
        now[0] += WITHIN_S / MAX_ENDS + 1
        assert restarts.pause(1.0) is not None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), max_size=12), st.integers(0, 8))
def test_beginnings_that_were_sent_are_known(texts, limit):
    pages, last = SentPages(limit), {}
    for start, length in texts:
        ids = list(range(start, start + length))
        pages.note(ids)
        for key in reversed(list(keys_of(ids))[:limit]):
            last.pop(key, None)
            last[key] = None
    kept = set(list(last)[-limit:] if limit else [])
    for start, length in texts:
        ids = list(range(start, start + length))
        keys = list(keys_of(ids[:-1]))
        known = next((place for place, key in enumerate(keys) if key not in kept), len(keys))
        assert pages.num_known(ids) == PAGE * known
        assert len(pages._keys) <= limit


@pytest.mark.parametrize("ignore_eos", [False, True])
@given(cut=st.integers(0, 8), prompt=st.integers(1, 70), cached=st.sampled_from([0, 64]))
def test_a_request_goes_on_in_another_process_where_it_was(ignore_eos, cut, prompt, cached):
    """Also within a string that ends it, whose beginning it has got before."""
    sampling = Sampling(0.7, seed=3, logit_bias={5: 1.5}, banned_token_ids=[7], logprobs=2)
    request = make_request(decoder(), prompt_of(0, prompt), 50, sampling, ["and days", 9], ignore_eos)
    set_terms(request, 3, "somebody", 20.0)
    set_extras(request, Grammars(decoder()), None, "ngram", 1)
    request.ids += b"and days"[:cut]
    request.cached = cached
    terms = pickle.loads(pickle.dumps(Terms.of(request)))
    handle = Handle(terms.number, Outlet(Pipe()), lambda: 0)
    other, same = (request_of(replace(terms, ids=terms.ids.copy()), decoder(), handle) for _ in range(2))
    for name in ("ids", "prompt_length", "limit", "options", "arrived", "deadline", "priority", "client", "number"):
        assert getattr(same, name) == getattr(request, name), name
    assert (same.cached, same.prompt_logprobs, same.new_tokens) == (cached, 1, cut)
    assert same.ngrams is not None
    assert same.ids is not request.ids
    reasons = [same.push(token) for token in b"and days"[cut:]]
    assert reasons == [""] * (7 - cut) + ["stop"] * (cut < 8)
    if cut < 8:
        assert other.push(decoder().config.eos_ids[0]) == ("" if ignore_eos else "stop")
        assert other.push(9) == "stop"
