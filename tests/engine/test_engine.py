"""Texts of an engine: each is the one that it would be alone, whoever shares its steps, whatever befalls others."""

import asyncio
import gc
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.engine import EngineConfig, Grammar, InferenceEngine
from bitnet_jit.errors import (
    EngineClosed,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
)
from bitnet_jit.generation.sampling import Sampling

WAIT = 30  # seconds for a token, which take milliseconds
SCRIPTURE = b"And it came to pass in those days, that there went out a decree from the king, and all the people "
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([None, 5]),
    seed=st.integers(0, 99),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
)
PROMPTS = st.builds(
    lambda start, length, more: [*(SCRIPTURE * 3)[start : start + length], *more],
    st.sampled_from([0, 0, 0, 7]),
    st.integers(1, 200),
    st.binary(max_size=3),
)
REQUESTS = st.lists(
    st.tuples(
        PROMPTS,
        st.integers(1, 90),
        SAMPLINGS,
        st.integers(-1, 1),
        st.sampled_from("ab"),
        st.sampled_from([None, "ngram"]),
    ),
    min_size=1,
    max_size=9,
)


def alone(decoder, prompt, limit, sampling):
    """Return the tokens of a text that nobody shares a step with."""
    return decoder.generate(prompt, limit, sampling=sampling).tolist()[len(prompt) :]


@settings(max_examples=12)
@given(
    requests=REQUESTS, running=st.integers(1, 9), pages=st.integers(5, 20), step=st.integers(1, 300), kept=st.booleans()
)
def test_every_text_is_the_one_that_it_is_alone(tiny, requests, running, pages, step, kept):
    """With so few pages that requests lose theirs, prompts in chunks of any size, and beginnings that are shared."""
    config = EngineConfig(max_running=running, num_pages=pages, step_tokens=step, prefix_cache=kept)
    with InferenceEngine(config) as engine:
        engine.add_model("tiny", tiny)
        handles = [
            engine.submit("tiny", prompt, limit, sampling, priority=priority, client=client, speculate=speculate)
            for prompt, limit, sampling, priority, client, speculate in requests
        ]
        texts = [handle.result(WAIT).tokens for handle in handles]
        stats = engine.stats()["tiny"]
        assert stats.pages_used == stats.pages_kept
        assert stats.finished == len(requests)
    assert texts == [alone(tiny, prompt, limit, sampling) for prompt, limit, sampling, *_ in requests]


def test_requests_lose_their_pages_and_go_on(make_engine, tiny):
    engine = make_engine(num_pages=6, prefix_cache=False)
    prompts = [list(SCRIPTURE[start : start + 50]) for start in range(4)]
    handles = [engine.submit("tiny", prompt, 200) for prompt in prompts]
    assert [handle.result(WAIT).tokens for handle in handles] == [
        alone(tiny, prompt, 200, Sampling()) for prompt in prompts
    ]
    assert engine.stats()["tiny"].preemptions > 0


def test_a_beginning_that_was_read_is_not_read_again(make_engine):
    engine = make_engine()
    prompt = list(SCRIPTURE * 3)
    first = engine.submit("tiny", prompt, 5).result(WAIT)
    second = engine.submit("tiny", prompt, 5).result(WAIT)
    assert (first.cached_tokens, second.cached_tokens) == (0, (len(prompt) - 1) // 64 * 64)
    assert first.tokens == second.tokens
    assert engine.stats()["tiny"].prompt_tokens == 2 * len(prompt) - second.cached_tokens - 2 * (len(prompt) % 64 == 1)


def test_pieces_come_one_by_one_and_make_the_text(make_engine, tiny):
    engine = make_engine()
    handle = engine.submit("tiny", "And it came to pass ", 30)
    pieces = list(handle)
    assert [piece.token for piece in pieces] == alone(tiny, list(b"And it came to pass "), 30, Sampling())
    assert "".join(piece.text for piece in pieces) == handle.result().text == handle.completion.text
    assert handle.completion.finish_reason == "length"
    assert 0 < handle.completion.first_token_s <= handle.completion.seconds


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5, seed=3)], ids=["greedy", "drawn"])
def test_guesses_change_no_text_and_save_steps(make_engine, tiny, sampling):
    engine = make_engine()
    prompt = list(b"the son of Jeroham, the son of Eliel, the son of Toah, ")
    text = engine.submit("tiny", prompt, 100, sampling, speculate="ngram").result(WAIT)
    stats = engine.stats()["tiny"]
    assert text.tokens == alone(tiny, prompt, 100, sampling)
    assert 0 < stats.accepted <= stats.guessed
    assert stats.steps <= 101 - stats.accepted


def test_a_stop_string_is_no_part_of_the_text(make_engine, tiny):
    text = bytes(alone(tiny, list(b"And it came to pass "), 60, Sampling())).decode()
    stop = text[20:24]
    done = make_engine().submit("tiny", "And it came to pass ", 60, stop=[stop]).result(WAIT)
    assert done.text == text[: text.index(stop)]
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("speculate", [None, "ngram"])
def test_a_text_goes_on_behind_end_tokens_that_are_ignored(make_engine, tiny, speculate):
    engine, sampling = make_engine(), Sampling(logit_bias={0: 99.0})

    def ask(**options):
        return engine.submit("tiny", "And ", 30, sampling, speculate=speculate, **options).result(WAIT)

    text = ask()
    assert (text.tokens, text.text, text.finish_reason) == ([0], "", "stop")
    text = ask(ignore_eos=True)
    assert (text.tokens, text.text, text.finish_reason) == ([0] * 30, "\0" * 30, "length")
    assert ask(ignore_eos=True, stop=0).tokens == [0]  # what the caller named ends it
    whole = asyncio.run(engine.generate("tiny", "And ", 30, sampling, ignore_eos=True))
    assert whole.tokens == [0] * 30
    with pytest.raises(InvalidInput, match="ignore_eos: expected False beside a grammar"):
        ask(ignore_eos=True, grammar=Grammar.json_object())


def test_logprobs_are_those_that_were_asked_for(make_engine):
    engine = make_engine()
    plain = engine.submit("tiny", "And ", 8)
    asked = engine.submit("tiny", "And ", 8, Sampling(logprobs=3)).result(WAIT)
    assert plain.result(WAIT).logprobs is None
    assert [len(one.likeliest) for one in asked.logprobs] == [3] * 8
    assert all(one.chosen == one.likeliest[0][1] <= 0 for one in asked.logprobs)
    assert [one.likeliest[0][0] for one in asked.logprobs] == asked.tokens


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=4), step=st.integers(1, 200), running=st.integers(1, 4)
)
def test_logprobs_of_prompts_are_those_of_the_network(tiny, lengths, step, running):
    """In chunks of any size, beside each other and beside texts that do not ask for any."""
    prompts = [list(SCRIPTURE[index : index + length]) for index, length in enumerate(lengths)]
    with InferenceEngine(EngineConfig(max_running=running, num_pages=12, step_tokens=step)) as engine:
        engine.add_model("tiny", tiny)
        handles = [engine.submit("tiny", prompt, 3, prompt_logprobs=2) for prompt in prompts]
        plain = engine.submit("tiny", prompts[0], 3)
        texts = [handle.result(WAIT) for handle in handles]
        assert plain.result(WAIT).prompt_logprobs is None
    for prompt, text in zip(prompts, texts, strict=True):
        assert text.tokens == alone(tiny, prompt, 3, Sampling())
        expected = torch.log_softmax(tiny(prompt)[0, :-1].double(), -1)
        assert len(text.prompt_logprobs) == len(prompt) - 1
        for place, one in enumerate(text.prompt_logprobs):
            assert one.chosen == pytest.approx(float(expected[place, prompt[place + 1]]), abs=1e-4)
            assert one.likeliest[0][1] == pytest.approx(float(expected[place].max()), abs=1e-4)
            assert len(one.likeliest) == 2


def test_event_loops_and_threads_share_an_engine(make_engine, tiny):
    engine, results = make_engine(), {}

    async def ask(name):
        pieces = [piece.token async for piece in engine.submit("tiny", name, 20)]
        whole = await engine.generate("tiny", name, 20)
        results[name] = (pieces, whole.tokens)

    async def ask_all(names):
        await asyncio.gather(*map(ask, names))

    def wait(name):
        results[name] = (engine.submit("tiny", name, 20).result(WAIT).tokens,) * 2

    loops = [["And God", "In the", "Thus"], ["saith", "unto him"]]
    threads = [threading.Thread(target=asyncio.run, args=(ask_all(names),)) for names in loops]
    threads += [threading.Thread(target=wait, args=(name,)) for name in ("the LORD", "Moses")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    expected = {name: alone(tiny, list(name.encode()), 20, Sampling()) for name in sum(loops, ["the LORD", "Moses"])}
    assert results == {name: (tokens, tokens) for name, tokens in expected.items()}


def test_a_request_that_is_cancelled_frees_its_pages_and_others_go_on(make_engine, tiny):
    engine = make_engine(prefix_cache=False)
    going = engine.submit("tiny", "And ", 200)
    gone = engine.submit("tiny", "And it ", 900)
    next(iter(gone))
    gone.cancel()
    with pytest.raises(RequestCancelled):
        gone.result(WAIT)
    assert going.result(WAIT).tokens == alone(tiny, list(b"And "), 200, Sampling())
    assert engine.stats()["tiny"].pages_used == 0


def test_a_caller_that_is_cancelled_in_its_loop_cancels_its_request(make_engine):
    engine = make_engine()

    async def leave():
        task = asyncio.create_task(engine.generate("tiny", "And ", 1000))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    deadline = time.monotonic() + WAIT
    while engine.stats()["tiny"].running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (engine.stats()["tiny"].running, engine.stats()["tiny"].failed) == (0, 1)


def test_a_deadline_ends_a_request(make_engine):
    with pytest.raises(RequestTimeout, match=r"timeout_s: 0\.05 s have passed, and the text has \d+ new tokens"):
        make_engine().submit("tiny", "And ", 1000, timeout_s=0.05).result(WAIT)


def test_an_error_in_a_step_ends_its_requests_and_the_engine_serves_on(make_engine, tiny, monkeypatch):
    engine = make_engine()
    runner = engine.model("tiny").replica._runner
    monkeypatch.setattr(runner, "step", lambda chunks: 1 / 0)
    with pytest.raises(RequestFailed, match="ZeroDivisionError"):
        engine.submit("tiny", "And ", 10).result(WAIT)
    monkeypatch.undo()
    assert engine.submit("tiny", "And ", 10).result(WAIT).tokens == alone(tiny, list(b"And "), 10, Sampling())
    assert engine.stats()["tiny"].pages_used == engine.stats()["tiny"].pages_kept


def test_logits_that_are_no_numbers_end_their_request_alone(make_engine, tiny, monkeypatch):
    engine = make_engine()
    sampler = engine.model("tiny").replica._writer._sampler
    choose = sampler.choose

    def damaged(logits, rows, positions, best=None, masks=None):
        logits = logits.clone()
        logits[[position % 50 == 49 for position in positions]] = float("nan")
        return choose(logits, rows, positions)

    monkeypatch.setattr(sampler, "choose", damaged)
    good, bad = engine.submit("tiny", list(b"And" * 20), 30), engine.submit("tiny", list(b"And"), 60)
    with pytest.raises(RequestFailed, match="NaN or infinite"):
        bad.result(WAIT)
    assert good.result(WAIT).tokens == alone(tiny, list(b"And" * 20), 30, Sampling())


def test_a_full_queue_and_a_closed_engine_refuse(make_engine):
    engine = make_engine(max_running=1, max_waiting=2)
    handles = [engine.submit("tiny", "And ", 300)]
    while engine.stats()["tiny"].waiting:
        time.sleep(0.001)
    handles += [engine.submit("tiny", "And ", 300) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests wait"):
        engine.submit("tiny", "And ", 300)
    engine.close()
    assert all(len(handle.result(WAIT).tokens) == 300 for handle in handles)
    with pytest.raises(ModelNotFound):
        engine.submit("tiny", "And ")
    with pytest.raises(EngineClosed):
        engine.add_model("other", torch.nn.Linear(1, 1))


def test_an_engine_that_is_abandoned_leaves_nobody_waiting(make_engine):
    engine = make_engine()
    handles = [engine.submit("tiny", "And ", 1000) for _ in range(5)]
    engine.close(abandon=True)
    for handle in handles:
        with pytest.raises(EngineClosed):
            handle.result(WAIT)


def test_an_engine_that_nobody_holds_ends_its_threads(tiny):
    engine = InferenceEngine()
    replica = engine.add_model("tiny", tiny).replica
    handle = engine.submit("tiny", "And ", 1000)
    del engine
    gc.collect()
    assert not replica.is_alive
    with pytest.raises(EngineClosed):
        handle.result(WAIT)


def test_a_program_that_closes_no_engine_ends(tmp_path):
    lines = (
        "import bitnet_jit",
        "engine = bitnet_jit.InferenceEngine()",
        "engine.add_model('tiny', bitnet_jit.load())",
        "engine.submit('tiny', 'And ', 1000)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_that_dies_leaves_nobody_waiting(make_engine, monkeypatch):
    engine = make_engine()
    replica = engine.model("tiny").replica

    def die(budget):
        raise SystemExit("killed")

    monkeypatch.setattr(replica.scheduler, "plan", die)
    with pytest.raises(EngineClosed, match="killed"):
        engine.submit("tiny", "And ", 10).result(WAIT)
    replica._thread.join(WAIT)
    assert not engine.stats()["tiny"].alive
    with pytest.raises(EngineClosed, match="killed"):
        engine.submit("tiny", "And ", 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": ""}, "prompt: expected at least one character"),
        ({"prompt": []}, "input_ids: expected at least one token"),
        ({"prompt": [999]}, "input_ids: expected ids from 0 to 255, got 999"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens: expected 1 to"),
        (
            {"prompt": "a", "max_new_tokens": 1000},
            "max_new_tokens: a prompt of 1 tokens and 1000 new ones take 16 pages",
        ),
        ({"prompt": "a", "sampling": 3}, "sampling: expected a Sampling, got 3"),
        ({"prompt": "a", "ignore_eos": 1}, "ignore_eos: expected True or False, got 1"),
        ({"prompt": "a", "sampling": Sampling(banned_token_ids=[256])}, "banned_token_ids: expected ids from 0 to 255"),
        ({"prompt": "a", "stop": [""]}, "stop: expected strings of at least one character"),
        ({"prompt": "a", "priority": 0.5}, "priority: expected a whole number"),
        ({"prompt": "a", "speculate": "medusa"}, 'speculate: expected "ngram" or None, got'),
        ({"prompt": "a", "client": 3}, "client: expected a str, got 3"),
        ({"prompt": "a", "timeout_s": float("nan")}, "timeout_s: expected a finite number of seconds above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(make_engine, arguments, words):
    engine = make_engine(num_pages=4)
    with pytest.raises(InvalidInput, match=words):
        engine.submit("tiny", **arguments)
    assert engine.stats()["tiny"].waiting == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_running": 0, "memory_share": 1}, "max_running: .* got 0; memory_share: expected .* got 1"),
        ({"num_pages": 0.5}, "num_pages: expected a whole number"),
        ({"prefix_cache": "yes"}, "prefix_cache: expected True or False, got 'yes'"),
    ],
)
def test_options_are_checked_all_at_once(options, words):
    with pytest.raises(InvalidInput, match=words):
        EngineConfig(**options)


def test_tensors_go_through_any_module(make_engine):
    engine, layer = make_engine(), torch.nn.Linear(8, 3)
    engine.add_model("layer", layer)
    xs = [torch.randn(rows, 8) for rows in (1, 5, 2)]
    with torch.no_grad():
        expected = [layer(x) for x in xs]
    torch.testing.assert_close(engine.infer("layer", xs[0]), expected[0])
    torch.testing.assert_close(engine.infer_batch("layer", xs), expected)
    torch.testing.assert_close(asyncio.run(engine.infer_async("layer", xs[1])), expected[1])
    torch.testing.assert_close(asyncio.run(engine.infer_batch_async("layer", xs)), expected)
    with pytest.raises(ModelNotFound, match="expected one of tiny, layer, got 'other'"):
        engine.infer("other", xs[0])
    with pytest.raises(InvalidInput, match="'layer' is no decoder"):
        engine.submit("layer", "And ")
    assert engine.model("layer").total_weight_count == 27
    assert engine.model("layer").tokenizer is None
    assert engine.models.keys() == {"tiny", "layer"}


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        ("tiny", torch.nn.Identity(), "'tiny', which is taken"),
        ("", None, "got ''"),
        ("new", 3, "expected a torch.nn.Module"),
    ],
)
def test_models_that_cannot_be_meant_are_refused(make_engine, name, module, words):
    with pytest.raises(InvalidInput, match=words):
        make_engine().add_model(name, module)


def test_presets_differ_in_what_they_take():
    speed, memory = EngineConfig.optimized_for_speed(), EngineConfig.optimized_for_memory()
    assert EngineConfig.balanced() == EngineConfig()
    assert speed.max_running > EngineConfig().max_running > memory.max_running
    assert speed.memory_share > EngineConfig().memory_share > memory.memory_share


def test_a_model_is_loaded_in_a_thread_and_named_by_its_folder():
    from bitnet_jit.checkpoints.embedded import embedded_model

    async def names():
        async with InferenceEngine() as engine:
            one = await engine.load_model()
            two = await engine.load_model(embedded_model(), head="int8", model_id="int8")
            return one.model_id, two.model_id, two.total_weight_count

    one, two, weights = asyncio.run(names())
    assert (one, two) == ("tiny-bitnet", "int8")
    assert weights > 1_000_000
