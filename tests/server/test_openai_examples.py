"""Programs written for OpenAI's service run unchanged: only the environment says where the service is."""

import asyncio
import json
import re
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

CHAT, EMBEDDING, COMPLETION = "gpt-4o-mini", "text-embedding-3-small", "gpt-3.5-turbo-instruct"
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Who won the world series in 2020?"},
]


@pytest.fixture(scope="module", autouse=True)
def service(serve_names):
    """Serve the small decoder by the names that the programs ask for."""
    with pytest.MonkeyPatch.context() as patch, serve_names(CHAT, EMBEDDING, COMPLETION) as address:
        patch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        patch.setenv("OPENAI_API_KEY", "none")
        yield


@pytest.fixture
def client():
    with OpenAI() as client:
        yield client


def test_chat(client):
    completion = client.chat.completions.create(model="gpt-4o-mini", messages=QUESTION)
    assert isinstance(completion.choices[0].message.content, str)
    assert completion.choices[0].finish_reason in ("stop", "length")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_streamed_chat(client):
    stream = client.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, stream=True, max_tokens=50)
    pieces = []
    for chunk in stream:
        if chunk.choices[0].delta.content is not None:
            pieces.append(chunk.choices[0].delta.content)
    assert len(pieces) > 5
    assert 0 < len("".join(pieces)) <= 50


def test_the_streaming_helper(client):
    with client.chat.completions.stream(model="gpt-4o-mini", messages=QUESTION, stop="e", seed=1) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
    assert stream.get_final_completion().choices[0].message.content == text


class Team(StrEnum):
    dodgers = "Los Angeles Dodgers"
    rays = "Tampa Bay Rays"


class Answer(BaseModel):
    winner: Team
    games: int | None
    is_certain: bool


def test_structured_outputs(client):
    completion = client.chat.completions.parse(model="gpt-4o-mini", messages=QUESTION, response_format=Answer, seed=1)
    answer = completion.choices[0].message.parsed
    assert isinstance(answer, Answer)
    assert answer.winner in Team
    assert completion.choices[0].message.refusal is None


def test_streamed_structured_outputs(client):
    options = {"model": "gpt-4o-mini", "messages": QUESTION, "response_format": Answer, "seed": 1}
    with client.chat.completions.stream(**options) as stream:
        for event in stream:
            if event.type == "error":
                pytest.fail(str(event))
    assert isinstance(stream.get_final_completion().choices[0].message.parsed, Answer)


def test_a_json_schema(client):
    schema = {
        "type": "object",
        "properties": {"winner": {"type": "string", "enum": ["Dodgers", "Rays"]}, "year": {"const": 2020}},
        "required": ["winner", "year"],
        "additionalProperties": False,
    }
    completion = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "series", "strict": True, "schema": schema}},
    )
    answer = json.loads(completion.choices[0].message.content)
    assert answer["winner"] in ("Dodgers", "Rays")
    assert answer["year"] == 2020


def test_embeddings(client):
    response = client.embeddings.create(
        model="text-embedding-3-small",
        input=["The food was delicious and the waiter...", "The food was awful.", "Isaac begat Jacob."],
        encoding_format="float",
    )
    vectors = np.array([item.embedding for item in response.data])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 2]


def test_logprobs(client):
    completion = client.chat.completions.create(
        model="gpt-4o-mini", messages=QUESTION, logprobs=True, top_logprobs=2, max_tokens=9
    )
    content = completion.choices[0].logprobs.content
    assert len(content) == 9 or completion.choices[0].finish_reason == "stop"
    for item in content:
        assert len(item.top_logprobs) == 2
        assert 0 < sum(np.exp(top.logprob) for top in item.top_logprobs) < 1 + 1e-6


def test_completions(client):
    completion = client.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="Say this is a test", max_tokens=7, temperature=0, logprobs=3
    )
    assert len(completion.choices[0].text) == 7
    assert len(completion.choices[0].logprobs.token_logprobs) == 7


def test_models(client):
    assert {model.id for model in client.models.list()} == {CHAT, EMBEDDING, COMPLETION}


def test_the_examples_of_the_page_of_documentation(serve_names, capsys):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) >= 4
    namespace = {}
    with serve_names("tiny-bitnet") as address:
        for block in blocks:
            exec(block.replace("http://127.0.0.1:8000", address), namespace)
    told = re.findall(r"print\(.*\)  # (.*)", "".join(blocks))
    assert capsys.readouterr().out.splitlines() == told
    namespace["client"].close()


def test_the_client_of_an_event_loop():
    async def main():
        async with AsyncOpenAI() as client:
            stream = await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "Say this is a test"}],
                stream=True,
                max_tokens=9,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert 0 < len(asyncio.run(main())) <= 9
