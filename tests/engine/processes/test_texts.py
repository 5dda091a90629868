"""Workers in processes: whatever is asked for, they give what a thread gives, to the bit."""

import asyncio
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_texts import alone, ask, decoder, prompt_of
from process_engines import WAIT, serving

import bitnet_jit
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.grammar.grammar import Grammar
from bitnet_jit.errors import InvalidInput, ModelNotFound, QueueFull, RequestCancelled, RequestTimeout
from bitnet_jit.generation.sampling import Sampling

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.9]),
    top_k=st.sampled_from([None, 5]),
    seed=st.integers(0, 9),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    logit_bias=st.sampled_from([None, {101: 2.0}]),
    banned_token_ids=st.sampled_from([(), (32, 110)]),
    logprobs=st.sampled_from([None, 0, 3]),
)
REQUESTS = st.tuples(
    st.integers(0, 2), st.integers(1, 200), st.integers(1, 60), SAMPLINGS, st.sampled_from([None, "ngram"])
)
EOS = 0
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def engines():
    """Return an engine of two processes, and one of a thread."""
    with InferenceEngine() as threads, serving(2) as (engine, _):
        threads.add_model("tiny", decoder())
        yield engine, threads


@settings(max_examples=12)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=9))
def test_texts_are_those_that_they_are_alone(engines, requests):
    texts = [handle.result(WAIT).tokens for handle in [ask(engines[0], request) for request in requests]]
    assert texts == [alone(*request[:4]) for request in requests]


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": Sampling(logprobs=3)},
        {"prompt_logprobs": 2},
        {"prompt_logprobs": 0, "sampling": Sampling(temperature=0.8, seed=3, logprobs=1)},
        {"stop": "days"},
        {"stop": ["the", 101]},
        {"speculate": "ngram"},
        {"ignore_eos": True, "sampling": Sampling(logit_bias={EOS: 100.0})},
        {"sampling": Sampling(logit_bias={EOS: 100.0})},
        {"grammar": Grammar.json_schema(SCHEMA)},
        {"grammar": Grammar.json_schema(SCHEMA), "sampling": Sampling(temperature=1.2, seed=1), "speculate": "ngram"},
    ],
)
def test_all_of_an_answer_is_what_a_thread_gives(engines, options):
    one, other = (engine.submit("tiny", prompt_of(0, 40), 30, **options).result(WAIT) for engine in engines)
    for name in ("text", "tokens", "finish_reason", "prompt_tokens", "logprobs", "prompt_logprobs"):
        assert getattr(one, name) == getattr(other, name), name
    assert 0 < one.first_token_s <= one.seconds < WAIT


def test_what_ends_a_text_may_be_an_iterator(engines):
    for engine in engines:
        text = engine.submit("tiny", "And it ", 60, stop=iter(["children", "zz"])).result(WAIT)
        assert (text.text, text.finish_reason) == ("came to pass, when the ", "stop")


def test_pieces_come_one_by_one(engines):
    one, other = ([piece._asdict() for piece in engine.submit("tiny", "And ", 20)] for engine in engines)
    assert one == other
    assert len(one) == 20


def test_embeddings_are_the_same_bits(engines):
    prompts = [prompt_of(0, length) for length in (1, 3, 64, 250)]
    one, other = (engine.embed("tiny", prompts) for engine in engines)
    assert one.dtype == torch.float32
    assert torch.equal(one, other)


def test_cached_beginnings_are_told(engines):
    prompt = [*b"Something that nobody has asked for so far"] * 4
    texts = [engines[0].submit("tiny", prompt, 3).result(WAIT) for _ in range(3)]
    assert [text.cached_tokens for text in texts] == [0, 128, 128]


def test_what_needs_no_weights_is_there(engines):
    engine, threads = engines
    one, other = engine.model("tiny"), threads.model("tiny")
    for name in ("total_weight_count", "input_dim", "output_dim"):
        assert getattr(one, name) == getattr(other, name)
    assert one.tokenizer.encode("And") == other.tokenizer.encode("And")
    assert one.module.device == torch.device("cpu")
    usage, expected = engine.memory_usage(), threads.memory_usage()
    assert (usage.weights, usage.pages) == (2 * expected.weights, 2 * one.replica.members[0].cache_bytes)
    assert usage.models[0].device == "cpu"
    assert engine.cache_stats().bytes == usage.weights


def test_what_needs_weights_is_refused_in_words(engines):
    engine, x, whole = engines[0], torch.tensor([[1, 2, 3]]), decoder()
    remote = engine.model("tiny").module
    calls = [
        lambda: engine.infer("tiny", x),
        lambda: engine.infer_batch("tiny", [x]),
        lambda: engine.smart_infer("tiny", [x]),
        lambda: engine.benchmark("tiny", x, 10),
        lambda: remote(x),
        lambda: remote.generate([1, 2], 3),
        lambda: next(remote.stream([1, 2], 3)),
        lambda: remote.to("cpu"),
        lambda: remote.new_cache(),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="processes of its workers.*processes=False"):
            call()
    with InferenceEngine() as other, pytest.raises(InvalidInput, match="module: expected a model with its weights"):
        other.add_model("tiny", remote)
    with pytest.raises(InvalidInput, match="module: .*loads its weights itself; use load_model"):
        engine.add_model("other", whole)
    assert engine.add_model("layer", torch.nn.Linear(2, 3)).output_dim == 3
    engine.remove_model("layer")


def test_wrong_requests_are_refused_before_they_leave(engines):
    engine = engines[0]
    with pytest.raises(InvalidInput, match="max_new_tokens"):
        engine.submit("tiny", "And ", 0)
    with pytest.raises(InvalidInput, match="schema"):
        engine.submit("tiny", "And ", 5, grammar=Grammar("{"))
    with pytest.raises(ModelNotFound):
        engine.submit("other", "And ")
    assert engine.stats()["tiny"].failed == 0


def test_requests_end_where_they_are_cancelled_or_too_late(engines):
    engine = engines[0]
    handles = [engine.submit("tiny", "And ", 900) for _ in range(3)]
    next(iter(handles[0]))
    for handle in handles[:2]:
        handle.cancel()
        with pytest.raises(RequestCancelled):
            handle.result(WAIT)
    handles[2].cancel()
    with pytest.raises(RequestTimeout, match=r"timeout_s: 0.05 s have passed, and the text has \d+ new tokens"):
        engine.submit("tiny", "And ", 900, timeout_s=0.05).result(WAIT)
    embedding = engine.submit_embedding("tiny", prompt_of(0, 250))
    embedding.cancel()
    with pytest.raises(RequestCancelled):
        embedding.result(WAIT)


def test_event_loops_wait_for_processes(engines):
    async def texts():
        return await asyncio.gather(*(engines[0].generate("tiny", prompt_of(0, 9), 40) for _ in range(8)))

    assert [text.tokens for text in asyncio.run(texts())] == [alone(0, 9, 40, Sampling())] * 8


def test_a_reader_that_is_slow_loses_nothing_and_stops_nobody(engines):
    slow = engines[0].submit("tiny", prompt_of(0, 9), 300)
    pieces = iter(slow)
    tokens = [next(pieces).token]
    others = [engines[0].submit("tiny", prompt_of(1, 9), 20).result(WAIT).tokens for _ in range(20)]
    assert others == [alone(1, 9, 20, Sampling())] * 20
    assert tokens + [piece.token for piece in pieces] == alone(0, 9, 300, Sampling())


def test_all_processes_together_have_one_queue():
    with serving(2, max_running=1, max_waiting=3) as (engine, members):
        handles = [engine.submit("tiny", "And ", 300) for _ in range(2)]
        for handle in handles:
            next(iter(handle))
        handles += [engine.submit("tiny", "And ", 300) for _ in range(3)]
        with pytest.raises(QueueFull, match="3 requests wait"):
            engine.submit("tiny", "And ", 300)
        stats = engine.stats()["tiny"]
        assert (stats.waiting, stats.running) == (3, 2)
        assert all(member.num_waiting for member in members)
    assert [len(handle.result(0).tokens) for handle in handles[2:]] == [300] * 3, "written before it closed"


def test_a_process_with_nothing_to_do_takes_what_waits_elsewhere():
    with serving(2, max_running=2) as (engine, (one, two)):
        handles = [engine.submit("tiny", prompt_of(number, 20), 200) for number in range(20)]
        assert one.num_open == two.num_open == 10
        for handle in handles[1::2]:
            handle.cancel()
        texts = [handle.result(WAIT).tokens for handle in handles[::2]]
        assert texts == [alone(number, 20, 200, Sampling()) for number in range(0, 20, 2)]
        one.wait_idle(WAIT)
        two.wait_idle(WAIT)
        assert min(member.stats().finished for member in (one, two)) >= 2
        assert sum(member.stats().finished for member in (one, two)) == 10


def test_requests_go_where_their_beginning_has_been_read():
    with serving(2) as (engine, members):
        texts = [engine.submit("tiny", prompt_of(0, 290), 3).result(WAIT) for _ in range(6)]
        assert [text.cached_tokens for text in texts] == [0] + [256] * 5
        assert sorted(member.stats().finished for member in members) == [0, 6]


def test_requests_go_where_their_beginning_is_being_written():
    with serving(2) as (engine, (one, two)):
        long, short = engine.submit("tiny", prompt_of(0, 290), 300), engine.submit("tiny", prompt_of(5, 9), 400)
        assert (one.num_open, two.num_open) == (1, 1)
        alike = engine.submit("tiny", prompt_of(0, 280), 20)
        assert (one.num_open, two.num_open) == (2, 1), "though the other one has less to do"
        assert [len(handle.result(WAIT).tokens) for handle in (long, short, alike)] == [300, 400, 20]


def test_without_a_cache_of_prefixes_requests_go_where_the_least_is_to_be_done():
    with serving(2, prefix_cache=False) as (engine, members):
        handles = [engine.submit("tiny", prompt_of(0, 290), 100) for _ in range(6)]
        assert [handle.result(WAIT).cached_tokens for handle in handles] == [0] * 6
        assert [member.stats().finished for member in members] == [3, 3]


def test_threads_of_the_cpu_are_shared_out():
    bitnet_jit.set_num_threads(5)
    try:
        with serving(2) as (_, members):
            for member in members:
                environ = Path(f"/proc/{member.pid}/environ").read_bytes().split(b"\0")
                assert {b"OMP_NUM_THREADS=2", b"BITNET_JIT_NUM_THREADS=2"} <= {*environ}
    finally:
        bitnet_jit.set_num_threads(None)


@pytest.mark.parametrize("value", [1, "yes", 0.0])
def test_the_option_is_checked(value):
    with pytest.raises(InvalidInput, match="processes: expected True, False or None"):
        EngineConfig(processes=value)
    with pytest.raises(InvalidInput, match="processes: expected True or False"):
        InferenceEngine.builder().processes(value).validate()
    assert InferenceEngine.builder().processes().validate().processes is True
