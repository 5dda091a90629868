"""POST /v1/embeddings by the official client: the engine's vectors, in every form of input and output."""

import base64
import json

import httpx
import numpy as np
import openai
import pytest
import torch

TEXTS = ["In the beginning ", "And it came to pass ", "né 😀"]


def vectors(answer):
    """Return the vectors of an answer."""
    assert answer.object == "list"
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return torch.tensor([item.embedding for item in answer.data])


def test_vectors_are_the_engines(client, shared):
    answer = client.embeddings.create(model="tiny", input=TEXTS)
    assert torch.equal(vectors(answer), shared[1].embed("tiny", TEXTS))
    assert answer.model == "tiny"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("encoding", ["float", "base64", openai.omit])
@pytest.mark.parametrize(
    "form", [str, lambda text: [text], lambda text: list(text.encode()), lambda text: [list(text.encode())]]
)
def test_all_forms_give_the_same(client, shared, form, encoding):
    answer = client.embeddings.create(model="tiny", input=form(TEXTS[0]), encoding_format=encoding)
    value = answer.data[0].embedding
    if isinstance(value, str):
        value = np.frombuffer(base64.b64decode(value), "<f4").tolist()
    assert torch.equal(torch.tensor(value), shared[1].embed("tiny", TEXTS[:1])[0])


def test_a_text_alone_has_the_bits_that_it_has_among_many(client):
    many = vectors(client.embeddings.create(model="tiny", input=TEXTS * 90))
    assert len(many) == 270
    for index, text in enumerate(TEXTS):
        assert torch.equal(vectors(client.embeddings.create(model="tiny", input=text))[0], many[index + 3 * 50])


@pytest.mark.parametrize("dimensions", [1, 7, 384])
def test_fewer_dimensions_are_the_first_of_length_1(client, dimensions):
    whole = vectors(client.embeddings.create(model="tiny", input=TEXTS))
    fewer = vectors(client.embeddings.create(model="tiny", input=TEXTS, dimensions=dimensions))
    first = whole[:, :dimensions]
    torch.testing.assert_close(fewer, first / first.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [256]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": None}, "input"),
        ({"input": "a" * 1025}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "\ud800"}, None),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 385}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "absent"}, "model"),
        ({"more": 1}, "more"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(address, change, param):
    content = json.dumps({"model": "tiny", "input": "x"} | change)  # lone surrogates escaped
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{address}/v1/embeddings", content=content, headers=headers)
    if param is None:  # counts as U+FFFD
        assert response.status_code == 200
    else:
        assert response.status_code == (404 if param == "model" else 400)
        assert response.json()["error"]["param"] == param


def test_a_long_prompt_is_refused_by_the_servers_limit(serve):
    from bitnet_jit.server.limits import Limits

    address, _ = serve(limits=Limits(prompt_tokens=4))
    answers = [
        httpx.post(f"{address}/v1/embeddings", json={"model": "tiny", "input": text}) for text in ("abcd", "abcde")
    ]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json()["error"]["param"] == "input"


def test_numbers_are_json_without_nan(address):
    response = httpx.post(f"{address}/v1/embeddings", json={"model": "tiny", "input": "x", "encoding_format": "float"})
    values = json.loads(response.text, parse_constant=pytest.fail)["data"][0]["embedding"]
    assert len(values) == 384
    assert abs(sum(value * value for value in values) - 1) < 1e-5
