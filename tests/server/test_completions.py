"""POST /v1/completions by the official client: every text is the one that the decoder writes alone."""

import asyncio
import copy
import json
import math
from dataclasses import replace

import httpx
import openai
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.server.requests import CompletionRequest
from bitnet_jit.server.texts import sampling

VERSE = "And it came to pass "
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.7, 1.5]),
        "top_p": st.sampled_from([0.3, 0.9, 1]),
        "top_k": st.sampled_from([-1, 0, 1, 5]),
        "min_p": st.sampled_from([0, 0.1]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "presence_penalty": st.sampled_from([-1, 0.5]),
        "frequency_penalty": st.sampled_from([-0.5, 1]),
        "logit_bias": st.dictionaries(st.integers(0, 255).map(str), st.sampled_from([-100, -1.5, 3]), max_size=3),
    },
)
EXTRAS = {"top_k", "min_p", "repetition_penalty"}


def alone(decoder, prompt, limit, **options):
    """Return the tokens of a text that the decoder writes alone."""
    tokens = list(prompt.encode()) if isinstance(prompt, str) else prompt
    return decoder.generate(tokens, limit, sampling=Sampling(**options)).tolist()[len(tokens) :]


def text_of(decoder, tokens):
    """Return the text of new tokens, without the one that ends it."""
    return decoder.tokenizer.decode([token for token in tokens if token not in decoder.config.eos_ids])


@settings(max_examples=15)
@given(prompt=st.text(min_size=1, max_size=40), limit=st.integers(1, 12), seed=st.integers(0, 2**63 - 1), given=OPTIONS)
def test_each_option_acts_as_in_the_decoder(tiny, client, prompt, limit, seed, given):
    ours = {"temperature": 1.0, **given, "seed": seed}
    if ours.get("top_k") in (-1, 0):
        del ours["top_k"]
    if "logit_bias" in ours:
        ours["logit_bias"] = {int(token): bias for token, bias in ours["logit_bias"].items()}
    tokens = alone(tiny, prompt, limit, **ours)
    plain = {name: value for name, value in given.items() if name not in EXTRAS}
    extra = {name: value for name, value in given.items() if name in EXTRAS}
    answer = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=limit, seed=seed, extra_body=extra, **plain
    )
    assert answer.choices[0].text == text_of(tiny, tokens)
    assert answer.choices[0].finish_reason == ("stop" if tokens[-1] == 0 else "length")
    assert answer.usage.prompt_tokens == len(prompt.encode())
    assert answer.usage.completion_tokens == len(tokens)
    assert answer.usage.total_tokens == len(prompt.encode()) + len(tokens)


def test_where_a_request_says_nothing_the_files_of_the_model_do():
    files = Defaults("file", temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    silent = CompletionRequest(model="tiny", prompt="x")
    assert sampling(silent, None, files) == files.sampling()
    assert sampling(silent, None, Defaults()) == Sampling(temperature=1.0)
    asked = {"temperature": 0.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    options = sampling(CompletionRequest(model="tiny", prompt="x", **asked), None, files)
    assert options == Sampling(top_p=1.0, min_p=0.0)


def test_a_server_follows_the_files_of_its_model(tiny, serve, monkeypatch):
    monkeypatch.setattr(tiny, "defaults", Defaults("file", temperature=0.9, top_k=9))
    address, _ = serve()
    body = {"model": "tiny", "prompt": VERSE, "max_tokens": 12, "seed": 3}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=30).json()
    expected = alone(tiny, VERSE, 12, temperature=0.9, top_k=9, seed=3)
    assert answer["choices"][0]["text"] == text_of(tiny, expected)


@pytest.mark.parametrize("prompt", [VERSE, [VERSE, "In the "], list(VERSE.encode()), [[65, 66], [67]], "é", "a\0b"])
def test_prompts_in_every_form(tiny, client, prompt):
    several = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    rows = [list(item.encode()) if isinstance(item, str) else item for item in several]
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=5, temperature=0)
    assert [choice.index for choice in answer.choices] == list(range(len(rows)))
    assert [choice.text for choice in answer.choices] == [text_of(tiny, alone(tiny, row, 5)) for row in rows]
    assert answer.usage.prompt_tokens == sum(map(len, rows))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["completions", "chat"])
def test_a_text_goes_on_behind_the_end_token_where_that_is_ignored(tiny, client, route, stream):
    options = {"temperature": 0.8, "seed": 3, "logit_bias": {"0": 20}, "max_tokens": 40, "stream": stream}
    ours = Sampling(temperature=0.8, seed=3, logit_bias={0: 20.0})
    endless = copy.copy(tiny)
    endless.config = replace(tiny.config, eos_ids=())
    prompt = VERSE if route == "completions" else f"user: {VERSE}\nassistant: "
    expected = endless.generate(list(prompt.encode()), 40, sampling=ours).tolist()[len(prompt) :]
    assert 0 < expected.count(0) < 40  # there are end tokens within, and tokens behind them
    for ignored in (True, False, None):
        options["extra_body"] = {"ignore_eos": ignored}
        if route == "completions":
            answer = client.completions.create(model="tiny", prompt=VERSE, **options)
        else:
            messages = [{"role": "user", "content": VERSE}]
            answer = client.chat.completions.create(model="tiny", messages=messages, **options)
        chunks = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
        texts = [
            one.text if route == "completions" else (one.delta if stream else one.message).content for one in chunks
        ]
        length = 40 if ignored else expected.index(0) + 1
        written = expected if ignored else expected[: length - 1]
        assert "".join(text or "" for text in texts) == tiny.tokenizer.decode(written)
        assert chunks[-1].finish_reason == ("length" if ignored else "stop")
        assert stream or answer.usage.completion_tokens == length


def test_n_texts_draw_by_seeds_of_their_own(tiny, client):
    answer = client.completions.create(model="tiny", prompt=[VERSE, "A"], max_tokens=12, n=3, seed=7)
    seeds = [(prompt, seed) for prompt in (VERSE, "A") for seed in (7, 8, 9)]
    expected = [text_of(tiny, alone(tiny, prompt, 12, temperature=1, seed=seed)) for prompt, seed in seeds]
    assert [choice.text for choice in answer.choices] == expected
    assert len(set(expected)) > 2
    assert answer.usage.prompt_tokens == len(VERSE) + 1, "a prompt counts once"


def test_without_max_tokens_there_are_sixteen(client):
    answer = client.completions.create(model="tiny", prompt=VERSE, temperature=0)
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("stop", ["days", ["xyz", "days"]])
def test_stop_strings_are_left_out(client, stop):
    answer = client.completions.create(model="tiny", prompt=VERSE, max_tokens=50, temperature=0, stop=stop)
    assert answer.choices[0].text == "after the "
    assert answer.choices[0].finish_reason == "stop"


def test_stop_token_ids(client):
    extra = {"stop_token_ids": [ord("d")]}
    answer = client.completions.create(model="tiny", prompt=VERSE, max_tokens=50, temperature=0, extra_body=extra)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].text in ("after the ", "after the d")


@pytest.mark.parametrize("options", [{}, {"n": 3, "seed": 3}, {"stop": "days", "temperature": 0}, {"echo": True}])
def test_a_stream_is_the_whole_text(client, options):
    asked = {"model": "tiny", "prompt": [VERSE, "é"], "max_tokens": 30, "seed": 1, **options}
    whole = client.completions.create(**asked)
    texts = [""] * len(whole.choices)
    reasons, usage = {}, None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "text_completion"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_the_events_of_a_stream(address):
    body = {"model": "tiny", "prompt": VERSE, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = "".join(response.iter_text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"][-len(chunks) :]
    assert not any("usage" in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_the_first_piece_comes_before_the_text_has_ended(shared, client):
    """A thousand tokens would come together if the answer were held back."""
    engine = shared[1]
    stream = client.completions.create(model="tiny", prompt="A", max_tokens=1000, stream=True, seed=5)
    next(iter(stream))
    assert engine.stats()["tiny"].running == 1
    stream.close()


def test_echo_stands_before_the_text(tiny, client):
    text = client.completions.create(model="tiny", prompt=VERSE, max_tokens=5, temperature=0).choices[0].text
    for prompt in (VERSE, list(VERSE.encode())):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=5, temperature=0, echo=True)
        assert answer.choices[0].text == VERSE + text


def test_logprobs_are_those_of_the_model(tiny, client):
    answer = client.completions.create(model="tiny", prompt=VERSE, max_tokens=6, temperature=0, logprobs=3)
    values = answer.choices[0].logprobs
    tokens = alone(tiny, VERSE, 6)
    expected = tiny([[*VERSE.encode(), *tokens]])[0].log_softmax(-1)[len(VERSE) - 1 : -1]
    assert values.tokens == [chr(token) for token in tokens]
    assert values.text_offset == list(range(6))
    for place, (token, row) in enumerate(zip(tokens, expected, strict=True)):
        assert math.isclose(values.token_logprobs[place], row[token], abs_tol=1e-5)
        largest = {chr(index): row[index].item() for index in row.topk(3).indices.tolist()}
        assert values.top_logprobs[place] == pytest.approx(largest, abs=1e-5)


@pytest.mark.parametrize("limit", [0, 1, 4])
@pytest.mark.parametrize("prompts", [[VERSE, "A", VERSE * 9], [[65], list(VERSE.encode())]])
def test_an_echo_has_the_logprobs_of_its_prompt(tiny, client, limit, prompts):
    """So evaluations ask for the likelihood of a text."""
    answer = client.completions.create(
        model="tiny", prompt=prompts, max_tokens=limit, temperature=0, logprobs=1, echo=True
    )
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        tokens = list(prompt.encode()) if isinstance(prompt, str) else prompt
        new = alone(tiny, tokens, limit) if limit else []
        rows = tiny([[*tokens, *new]])[0].log_softmax(-1)[:-1]
        expected = rows.gather(-1, torch.tensor([[*tokens, *new]]).T[1:])[:, 0].tolist()
        values = choice.logprobs
        assert choice.text == bytes([*tokens, *new]).decode()
        assert "".join(values.tokens) == choice.text
        assert values.text_offset == list(range(len(choice.text)))
        assert (values.token_logprobs[0], values.top_logprobs[0]) == (None, None)
        assert values.token_logprobs[1:] == pytest.approx(expected, abs=1e-5)
        for token, value, top in list(zip(values.tokens, values.token_logprobs, values.top_logprobs, strict=True))[1:]:
            assert top[token] == value
        largest = [max(top.values()) for top in values.top_logprobs[1:]]
        assert largest == pytest.approx(rows.max(-1).values.tolist(), abs=1e-5)
    assert answer.usage.completion_tokens == limit * len(prompts)


def test_an_echo_alone(client):
    answer = client.completions.create(model="tiny", prompt=VERSE, max_tokens=0, echo=True)
    assert (answer.choices[0].text, answer.choices[0].logprobs) == (VERSE, None)
    assert answer.usage.completion_tokens == 0


def test_logprobs_in_a_stream_are_those_of_the_whole(client):
    asked = {"model": "tiny", "prompt": VERSE, "max_tokens": 8, "seed": 2, "logprobs": 1, "stop": "zzz"}
    whole = client.completions.create(**asked).choices[0].logprobs
    chunks = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        parts = [item for values in chunks if values for item in getattr(values, field)]
        assert parts == getattr(whole, field)


def test_many_clients_at_once_get_the_texts_that_they_get_alone(tiny, address):
    prompts = [f"{VERSE}{number} "[number % 7 :] for number in range(24)]

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.completions.create(model="tiny", prompt=prompt, max_tokens=3 + number % 9, seed=number)
                for number, prompt in enumerate(prompts)
            ]
            return await asyncio.gather(*asked)

    for number, answer in enumerate(asyncio.run(all_of_them())):
        tokens = alone(tiny, prompts[number], 3 + number % 9, temperature=1, seed=number)
        assert answer.choices[0].text == text_of(tiny, tokens)


def test_guessed_tokens_leave_the_text_as_it_is(tiny, serve):
    address, engine = serve(speculate="ngram")
    body = {"model": "tiny", "prompt": "la la la la la la", "max_tokens": 100, "temperature": 0}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=30).json()
    assert answer["choices"][0]["text"] == text_of(tiny, alone(tiny, body["prompt"], 100))
    assert engine.stats()["tiny"].steps < answer["usage"]["completion_tokens"]
