"""Replicas of one decoder: whatever befalls their devices, each text comes once, and is the one that it is alone."""

import asyncio
import copy
import gc
import re
import threading
import time

import pytest
import torch
from faulty_runner import MOMENTS, NO_MEMORY, FaultyRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from lone_texts import alone, ask, decoder, prompt_of

from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.models import model as model_file
from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import DeviceFailed, EngineClosed, InvalidInput, OutOfMemory, QueueFull, RequestCancelled
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import StopRule

WAIT = 30  # seconds for a token, which take milliseconds
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 9),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    logprobs=st.sampled_from([None, 2]),
)
REQUESTS = st.tuples(
    st.integers(0, 2), st.integers(1, 200), st.integers(1, 60), SAMPLINGS, st.sampled_from([None, "ngram"])
)
FAULTS = st.tuples(st.integers(0, 25), st.sampled_from(MOMENTS))


def make_engine(replicas, **options):
    """Return an engine with so many replicas on the CPU, and their runners, which can be told to fail."""
    engine = InferenceEngine(EngineConfig(**options))
    model = engine.add_model("tiny", decoder(), replicas=[decoder()] * (replicas - 1))
    return engine, [FaultyRunner(replica) for replica in model.replica.members]


def arm(runner, step, moment, kind):
    runner.armed.extend([(None, None)] * (step - len(runner.armed)))
    runner.armed.append((moment, kind))


@settings(max_examples=8)
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=9),
    fatal=st.lists(FAULTS, min_size=0, max_size=2),
    kinds=st.tuples(*[st.sampled_from(["device", "killed"])] * 2),
    short=st.lists(st.tuples(st.integers(0, 2), FAULTS), max_size=3),
    pages=st.integers(5, 20),
    kept=st.booleans(),
)
def test_every_text_is_the_one_that_it_is_alone(requests, fatal, kinds, short, pages, kept):
    """Two of three devices fail at some moment, memory is short at others, and pages do not suffice for all."""
    engine, runners = make_engine(3, num_pages=pages, prefix_cache=kept, max_running=4, step_tokens=70)
    with engine:
        for number, (step, moment) in short:
            arm(runners[number], step, moment, NO_MEMORY)
        for runner, kind, (step, moment) in zip(runners, kinds, fatal, strict=False):
            arm(runner, step, moment, kind)
        texts = [handle.result(WAIT).tokens for handle in [ask(engine, request) for request in requests]]
        assert texts == [alone(*request[:4]) for request in requests]
        stats = engine.stats()["tiny"]
        assert (stats.finished, stats.failed, stats.waiting, stats.running) == (len(requests), 0, 0, 0)
        assert stats.pages_used == stats.pages_kept
        assert (stats.replicas, stats.alive) == (3, True)


class Machine(RuleBasedStateMachine):
    """Submits, cancels and breaks devices, in any order."""

    def __init__(self):
        super().__init__()
        self.engine, self.runners = make_engine(3, num_pages=12, max_running=3, step_tokens=50)
        self.group = self.engine.model("tiny").replica
        self.handles, self.cancelled, self.whole, self.short = [], set(), 3, 0

    @rule(request=REQUESTS)
    @precondition(lambda self: len(self.handles) < 20)
    def add(self, request):
        self.handles.append((request, ask(self.engine, request)))

    @rule(data=st.data())
    @precondition(lambda self: self.handles)
    def cancel(self, data):
        number = data.draw(st.integers(0, len(self.handles) - 1))
        self.handles[number][1].cancel()
        self.cancelled.add(number)

    @rule(moment=st.sampled_from(MOMENTS), kind=st.sampled_from(["device", "killed"]), step=st.integers(0, 9))
    @precondition(lambda self: self.whole > 1)
    def break_device(self, moment, kind, step):
        self.whole -= 1
        arm(self.runners[self.whole], step, moment, kind)

    @rule(number=st.integers(0, 2), moment=st.sampled_from(MOMENTS))
    @precondition(lambda self: self.short < 3)  # one step of one token may meet all of them
    def run_short_of_memory(self, number, moment):
        self.short += 1
        self.runners[number].armed.appendleft((moment, NO_MEMORY))

    @rule(seconds=st.sampled_from([0.001, 0.01]))
    def wait(self, seconds):
        time.sleep(seconds)

    @invariant()
    def one_lives(self):
        assert self.group.is_alive

    def teardown(self):
        self.engine.close()
        for number, (request, handle) in enumerate(self.handles):
            if number in self.cancelled:
                try:
                    text = handle.result(0)
                except RequestCancelled:
                    continue
            else:
                text = handle.result(0)
            assert text.tokens == alone(*request[:4])
        assert not any(replica.inbox.num_open for replica in self.group.members)


def test_histories():
    run_state_machine_as_test(Machine, settings=settings(max_examples=12, stateful_step_count=20, deadline=None))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["device", "killed"])
def test_a_device_that_fails_is_taken_out_and_the_log_says_why(caplog, moment, kind):
    engine, runners = make_engine(2)
    with engine:
        arm(runners[0], 5, moment, kind)
        handles = [engine.submit("tiny", prompt_of(0, 9), 40) for _ in range(6)]
        pieces = [list(handle) for handle in handles]
        assert [[piece.token for piece in each] for each in pieces] == [alone(0, 9, 40, Sampling())] * 6
        stats = engine.stats()["tiny"]
        assert (stats.replicas, stats.replicas_alive, stats.alive, stats.finished) == (2, 1, True, 6)
        assert stats.steps == runners[0].steps - 1 + runners[1].steps
        assert engine.submit("tiny", "And ", 5).result(WAIT).tokens  # and the engine serves on
    (line,) = [record.getMessage() for record in caplog.records if "is out" in record.getMessage()]
    assert "tiny on cpu is out" in line
    assert "it was injected" in line
    assert re.search(r"([1-6]) of its \1 requests go on on 1 other replicas", line)


def test_where_no_replica_is_left_requests_fail_in_words():
    engine, runners = make_engine(2)
    with engine:
        for runner in runners:
            arm(runner, 3, "within", "device")
        handles = [engine.submit("tiny", prompt_of(0, 9), 40) for _ in range(4)]
        for handle in handles:
            with pytest.raises(
                DeviceFailed, match="was not written to its end.*the device is gone: it was injected.*load"
            ):
                handle.result(WAIT)
        with pytest.raises(DeviceFailed, match="the 2 replicas of the model have failed.*it was injected"):
            engine.submit("tiny", "And ", 5)
        stats = engine.stats()["tiny"]
        assert (stats.alive, stats.replicas_alive, stats.failed, stats.running, stats.waiting) == (False, 0, 4, 0, 0)


def test_a_device_without_others_fails_with_its_requests():
    engine, (runner,) = make_engine(1)
    with engine:
        arm(runner, 3, "after", "device")
        with pytest.raises(DeviceFailed, match="it was injected"):
            engine.submit("tiny", prompt_of(0, 9), 40).result(WAIT)
        with pytest.raises(DeviceFailed, match="takes no more requests"):
            engine.submit("tiny", "And ", 5)
        assert not engine.stats()["tiny"].alive


@pytest.mark.parametrize("speculate", [None, "ngram"])
@pytest.mark.parametrize("most", [1, 6, 40])
def test_steps_that_do_not_fit_are_made_smaller(most, speculate):
    engine, (runner,) = make_engine(1)
    runner.most = most
    with engine:
        handles = [
            engine.submit(
                "tiny", prompt_of(start, 150), 30, Sampling(logprobs=2), speculate=speculate, prompt_logprobs=1
            )
            for start in range(7)
        ]
        texts = [handle.result(WAIT) for handle in handles]
        assert [text.tokens for text in texts] == [alone(start, 150, 30, Sampling(logprobs=2)) for start in range(7)]
        assert [len(text.prompt_logprobs) for text in texts] == [149] * 7
        assert engine.stats()["tiny"].alive


def test_texts_take_turns_where_not_all_fit_into_a_step():
    engine, (runner,) = make_engine(1)
    with engine:
        handles = [engine.submit("tiny", prompt_of(start, 5), 400) for start in range(5)]
        iterators = [iter(handle) for handle in handles]
        for iterator in iterators:
            next(iterator)
        runner.most = 2
        tokens = [[piece.token for piece, _ in zip(iterator, range(150), strict=False)] for iterator in iterators]
        assert all(len(text) == 150 for text in tokens)  # none of them waits for the end of another
        assert all(len(handle.mailbox.items) < 245 for handle in handles)
        for handle in handles:
            handle.cancel()


def test_a_token_that_does_not_fit_fails_its_request_where_there_is_no_other_device():
    engine, (runner,) = make_engine(1)
    with engine:
        runner.most = 0
        with pytest.raises(OutOfMemory, match="cpu has too little memory for a step of one token"):
            engine.submit("tiny", "And ", 5).result(WAIT)
        runner.most = None
        assert engine.submit("tiny", prompt_of(0, 9), 40).result(WAIT).tokens == alone(0, 9, 40, Sampling())


def test_a_device_on_which_no_token_fits_is_given_up_where_there_is_another():
    engine, runners = make_engine(2)
    with engine:
        runners[0].most = 0
        handles = [engine.submit("tiny", prompt_of(0, 9), 40) for _ in range(4)]
        assert [handle.result(WAIT).tokens for handle in handles] == [alone(0, 9, 40, Sampling())] * 4
        assert engine.stats()["tiny"].replicas_alive == 1


def hold(engine):
    """Hold all replicas before their next step; return what lets them go on."""
    gate = threading.Event()
    for replica in engine.model("tiny").replica.members:
        replica._run = lambda plan, run=replica._run: (gate.wait(WAIT), run(plan))
    return gate


def test_requests_go_where_the_least_is_to_be_done():
    engine, _ = make_engine(2)
    with engine:
        one, two = engine.model("tiny").replica.members
        gate = hold(engine)
        long = [engine.submit("tiny", prompt_of(0, 200), 400)]
        short = [engine.submit("tiny", prompt_of(0, 10), 10) for _ in range(9)]
        assert (one.inbox.num_open, two.inbox.num_open) == (1, 9)
        assert sum(request.work for request in two.requests) == 9 * 20
        long += [engine.submit("tiny", prompt_of(0, 200), 500)]
        assert (one.inbox.num_open, two.inbox.num_open) == (1, 10)
        short += [engine.submit("tiny", prompt_of(0, 10), 10)]
        assert (one.inbox.num_open, two.inbox.num_open) == (2, 10)
        gate.set()
        assert [handle.result(WAIT).tokens for handle in short] == [alone(0, 10, 10, Sampling())] * 10
        assert [len(handle.result(WAIT).tokens) for handle in long] == [400, 500]


def test_requests_go_where_their_beginning_has_been_read():
    engine, _ = make_engine(2)
    with engine:
        group = engine.model("tiny").replica
        texts = [engine.submit("tiny", prompt_of(0, 290), 3).result(WAIT) for _ in range(6)]
        assert [text.cached_tokens for text in texts] == [0] + [256] * 5
        assert sorted(replica.counts.finished for replica in group.members) == [0, 6]
        other = [engine.submit("tiny", list(b"Thus ") + prompt_of(0, 200), 200) for _ in range(2)]
        assert [len(text.result(WAIT).tokens) for text in other] == [200, 200]
        assert min(replica.counts.finished for replica in group.members) == 1
        one, two = (member.tokens_before(other_request(290)) for member in group.members)
        assert one != two


def test_a_replica_with_nothing_to_do_takes_what_waits_elsewhere():
    engine, _ = make_engine(2, max_running=2)
    with engine:
        one, two = engine.model("tiny").replica.members
        gate = hold(engine)
        handles = [engine.submit("tiny", prompt_of(number, 20), 200) for number in range(20)]
        assert one.inbox.num_open == two.inbox.num_open == 10
        gone = [number for number in range(20) if number % 2]  # they were placed in turns
        for number in gone:
            handles[number].cancel()
        gate.set()
        texts = [handles[number].result(WAIT).tokens for number in range(20) if number not in gone]
        assert texts == [alone(number, 20, 200, Sampling()) for number in range(20) if number not in gone]
        assert min(one.counts.finished, two.counts.finished) >= 2
        assert one.counts.finished + two.counts.finished == 10


def other_request(length):
    """Return a request for the beginning of the scripture that nobody computes."""
    return Request(prompt_of(0, length), length, 5, StopRule(frozenset(), ()), Sampling(), None, 0.0)


def test_all_replicas_together_have_one_queue():
    engine, _ = make_engine(2, max_running=1, max_waiting=3)
    with engine:
        handles = [engine.submit("tiny", "And ", 300) for _ in range(2)]
        end = time.monotonic() + WAIT
        while engine.stats()["tiny"].waiting and time.monotonic() < end:
            time.sleep(0.001)
        handles += [engine.submit("tiny", "And ", 300) for _ in range(3)]
        with pytest.raises(QueueFull, match="3 requests wait"):
            engine.submit("tiny", "And ", 300)
    assert all(len(handle.result(0).tokens) == 300 for handle in handles)  # they were written before it closed


@pytest.mark.parametrize("failing", [0, 1])
def test_what_was_accepted_is_finished_though_a_device_fails_while_the_engine_closes(failing):
    engine, runners = make_engine(2)
    handles = [engine.submit("tiny", prompt_of(0, 9), 150) for _ in range(6)]
    short = [engine.submit("tiny", prompt_of(0, 9), 2) for _ in range(6)]
    next(iter(handles[failing]))
    arm(runners[failing], 60, "within", "device")
    engine.close()
    assert [handle.result(0).tokens for handle in handles] == [alone(0, 9, 150, Sampling())] * 6
    assert [handle.result(0).tokens for handle in short] == [alone(0, 9, 2, Sampling())] * 6


def test_an_engine_that_is_abandoned_leaves_nobody_waiting():
    engine, runners = make_engine(3)
    handles = [engine.submit("tiny", "And ", 900) for _ in range(9)]
    arm(runners[0], 3, "before", "device")
    engine.close(abandon=True)
    for handle in handles:
        with pytest.raises(EngineClosed):
            handle.result(0)


def test_an_engine_that_nobody_holds_ends_its_threads():
    engine, _ = make_engine(2)
    members = engine.model("tiny").replica.members
    handles = [engine.submit("tiny", "And ", 900) for _ in range(4)]
    del engine
    gc.collect()
    assert not any(replica.is_alive for replica in members)
    for handle in handles:
        with pytest.raises(EngineClosed):
            handle.result(WAIT)


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ([torch.nn.Identity()], r"replicas\[0\]: expected a Decoder"),
        (3, "replicas: expected a list of modules, got 3"),
    ],
)
def test_replicas_that_cannot_be_meant_are_refused(replicas, words):
    with InferenceEngine() as engine:
        with pytest.raises(InvalidInput, match=words):
            engine.add_model("tiny", decoder(), replicas=replicas)
        with pytest.raises(InvalidInput, match="replicas: expected a list of modules, got 3|module: expected a torch"):
            engine.add_model("layer", torch.nn.Linear(2, 2), replicas=3 if replicas == 3 else [3])
        assert not engine.models


def test_a_replica_that_is_another_model_is_refused():
    other = copy.copy(decoder())
    other.cache_dtype = torch.bfloat16
    words = r"replicas\[0\]: expected the same model as module, whose cache_dtype is torch.float32, got torch.bfloat16"
    with InferenceEngine() as engine, pytest.raises(InvalidInput, match=words):
        engine.add_model("tiny", decoder(), replicas=[other])


def test_a_model_is_loaded_onto_several_devices():
    async def ask():
        async with InferenceEngine() as engine:
            model = await engine.load_model(devices=["cpu", "cpu"])
            one, two = model.replica.members
            assert one._runner.network is two._runner.network is model.module
            assert one.num_pages == two.num_pages == model.replica.num_pages
            texts = [engine.generate("tiny-bitnet", prompt_of(0, 9), 40) for _ in range(4)]
            return [text.tokens for text in await asyncio.gather(*texts)]

    assert asyncio.run(ask()) == [alone(0, 9, 40, Sampling())] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": "cpu"}, "devices: expected a list of devices, got 'cpu'"),
        ({"devices": ["cpu"], "device": "cpu"}, "devices: expected none beside device='cpu'"),
        ({"devices": ["cpu", "toaster"]}, "device: 'toaster' cannot be used"),
    ],
)
def test_devices_that_cannot_be_meant_are_refused(options, words):
    with InferenceEngine() as engine, pytest.raises(InvalidInput, match=words):
        asyncio.run(engine.load_model(**options))


def test_pages_share_the_memory_of_one_device(monkeypatch):
    monkeypatch.setattr(model_file, "kind_of", lambda device: Memory)
    config = EngineConfig(memory_share=0.5, max_running=1000)
    whole, half = (model_file.num_pages(decoder(), config, sharing) for sharing in (1, 2))
    assert whole // 2 == half > 16


class Memory:
    """A kind of device with little memory."""

    @staticmethod
    def total_memory(device):
        return 2**28
