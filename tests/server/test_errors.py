"""Bad input: a status and words in OpenAI's form, never a stack trace; and the server goes on."""

import json
import socket

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.errors import (
    CacheFull,
    EngineClosed,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    RequestFailed,
    RequestTimeout,
)
from bitnet_jit.server.errors import described

BODY = {"model": "tiny", "prompt": "And ", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "seed",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "stream",
    "stream_options",
    "user",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_token_ids",
    "ignore_eos",
    "logprobs",
    "echo",
    "messages",
    "max_completion_tokens",
    "response_format",
]


def post(address, path, content, **options):
    """Post a body, an object or bytes; return the answer."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"Content-Type": "application/json"} | options.pop("headers", {})
    return httpx.post(f"{address}{path}", content=data, headers=headers, timeout=30, **options)


def error_of(response):
    """Return the error of an answer, which is in OpenAI's form."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [256]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [["a"]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "a" * 2000}, "prompt"),
        ({"prompt": ["a"] * 1000}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "2"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-200}, "repetition_penalty"),
        ({"logit_bias": {"1": -101}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop_token_ids": [999]}, "stop"),
        ({"logit_bias": {"256": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 1, "echo": True, "stream": True}, "stream"),
        ({"max_tokens": 0, "echo": True, "stream": True}, "max_tokens"),
        ({"user": 7}, "user"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"usage": True}}, "stream_options"),
        ({"suffix": "a"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: json.dumps(value)[:30] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_named(address, change, param):
    response = post(address, "/v1/completions", {**BODY, **change})
    error = error_of(response)
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"].startswith(f"{param}")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages"),
        ({"max_completion_tokens": 3}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"tools": []}, "tools"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
    ],
    ids=lambda value: json.dumps(value)[:30] if isinstance(value, dict) else "",
)
def test_a_wrong_field_of_a_chat_is_named(address, change, param):
    response = post(address, "/v1/chat/completions", {**CHAT, **change})
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"1" * 5000, b"[" * 100_000, b'{"model": "tiny", "seed": 1e999}'],
    ids=lambda content: repr(content[:9]),
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_a_body_that_is_no_request(address, path, content):
    response = post(address, path, content)
    assert response.status_code == 400
    error_of(response)


@settings(max_examples=60)
@given(path=st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize"]), changes=st.data())
def test_drawn_fields_give_an_answer_or_an_error_in_words(address, path, changes):
    fields = changes.draw(st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
    base = {"/v1/completions": BODY, "/v1/chat/completions": CHAT}.get(path, {"model": "tiny", "prompt": "x"})
    response = post(address, path, {**base, **fields})
    if response.status_code != 200:
        assert response.status_code in (400, 404)
        error_of(response)


def test_lone_surrogates_count_as_characters_that_are_none(address):
    texts = [
        post(address, "/v1/completions", body).json()["choices"][0]["text"]
        for body in (
            b'{"model":"tiny","prompt":"a\\udce9","seed":1}',
            '{"model":"tiny","prompt":"a\ufffd","seed":1}'.encode(),
        )
    ]
    assert texts[0] == texts[1]
    response = post(address, "/v1/completions", b'{"model":"tiny\\udce9","prompt":"a"}')
    assert response.status_code == 404
    error_of(response)


def test_an_unknown_model_and_an_unknown_page(client, address):
    with pytest.raises(openai.NotFoundError, match="tiny") as caught:
        client.completions.create(model="other", prompt="x")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert error_of(httpx.get(f"{address}/v1/nothing"))
    response = httpx.get(f"{address}/v1/completions")
    assert response.status_code == 405
    error_of(response)


@pytest.mark.parametrize("options", [{"temperature": 5e-324}, {"temperature": 1e-40}, {"temperature": 1e308}])
def test_extreme_temperatures(client, options):
    assert client.completions.create(model="tiny", prompt="A", max_tokens=3, **options).choices


@pytest.mark.parametrize(
    "options", [{"top_p": 5e-324}, {"min_p": 1}, {"repetition_penalty": 100}, {"logit_bias": {"1": -100}}]
)
def test_options_at_their_limits(address, options):
    assert post(address, "/v1/completions", {**BODY, **options}).status_code == 200


def test_fields_without_effect_are_taken(client):
    answer = client.completions.create(
        model="tiny",
        prompt="A",
        max_tokens=1,
        extra_body={"store": True, "metadata": {"a": "b"}, "service_tier": "auto"},
    )
    assert answer.choices


def test_a_form_of_a_web_page_is_no_request(address):
    """A page of another site can send text to this machine without asking its browser."""
    response = post(address, "/v1/completions", BODY, headers={"Content-Type": "text/plain"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("x: y"), 400),
        (ModelNotFound("x"), 404),
        (QueueFull("x"), 429),
        (EngineClosed("x"), 503),
        (CacheFull("x"), 503),
        (RequestTimeout("x"), 504),
        (RequestFailed("x"), 500),
        (KeyError("/secret/path"), 500),
    ],
)
def test_each_error_has_its_status(error, status):
    code, form = described(error)
    assert code == status
    assert "secret" not in form.error.message


def test_a_closed_engine_answers_503(serve):
    address, engine = serve()
    engine.model("tiny").replica.close("it is being closed")
    response = post(address, "/v1/completions", BODY)
    assert response.status_code == 503
    assert error_of(response)["code"] == "engine_closed"
    assert "Retry-After" in response.headers


def test_garbage_instead_of_http(address):
    host, port = address.removeprefix("http://").split(":")
    for content in (b"\0\xff" * 50, b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(content)
            assert b" 400 " in connection.recv(4096)
    assert httpx.get(f"{address}/health").status_code == 200
