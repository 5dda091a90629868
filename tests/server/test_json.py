"""`response_format`: texts that are JSON, by the official client, and what is refused."""

import json

import jsonschema
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_schemas import SCHEMAS
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "Who begat Isaac?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 0, "maximum": 175},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def by(schema, **more):
    """Return a response format by a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def ask(client, response_format, **options):
    """Return the client's answer to a chat."""
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 400, "seed": 1} | options
    return client.chat.completions.create(response_format=response_format, **asked)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_chat_by_a_schema(client, temperature):
    answer = ask(client, by(PERSON, strict=True, description="a person"), temperature=temperature, n=2, logprobs=True)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), PERSON)
        assert all(item.logprob <= 0 for item in choice.logprobs.content)


def test_a_streamed_chat_by_a_schema_is_the_same_text(client):
    whole = ask(client, by(PERSON)).choices[0].message.content
    stream = ask(client, by(PERSON), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole


def test_the_clients_parse_of_a_class(client):
    class Place(BaseModel):
        is_city: bool
        order: int | None

    class Answer(BaseModel):
        places: list[Place]

    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Answer, max_tokens=900, seed=2
    )
    choice = answer.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(choice.message.parsed, Answer)
    assert choice.message.content.startswith("{")


def test_a_completion_by_a_schema(client):
    body = {"response_format": by(PERSON)}
    answer = client.completions.create(model="tiny", prompt=["A king: ", "A "], max_tokens=400, extra_body=body)
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.text), PERSON)


def test_an_object_of_any_kind(client):
    text = ask(client, {"type": "json_object"}).choices[0]
    assert text.message.content.startswith("{")
    assert text.finish_reason == "length" or isinstance(json.loads(text.message.content), dict)


def test_plain_text_is_as_without_a_format(client):
    plain, without = ask(client, {"type": "text"}, max_tokens=20), ask(client, openai.omit, max_tokens=20)
    assert plain.choices[0].message.content == without.choices[0].message.content


@settings(max_examples=15, deadline=None)
@given(st.lists(SCHEMAS, min_size=1, max_size=3))
def test_any_small_schema(client, schemas):
    for schema in schemas:
        choice = ask(client, by(schema)).choices[0]
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "text"},
        {"type": "string", "pattern": "("},
        {"enum": ["a" * 200_000]},
        {"type": "integer", "multipleOf": 1_000_003},
        {"allOf": [{"type": "string", "pattern": f".*{n}.*"} for n in range(30)]},
        {"not": {}},
    ],
)
def test_a_schema_that_is_wrong_or_too_much_is_refused(client, schema):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, by(schema))
    assert caught.value.param == "response_format"
    assert caught.value.body["message"].startswith("response_format: ")
    assert len(caught.value.body["message"]) < 500


@pytest.mark.parametrize(
    "response_format",
    [
        {},
        {"type": "yaml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a"}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": []}},
        {"type": "json_object", "more": 1},
        "json",
    ],
    ids=str,
)
def test_a_format_that_is_none_is_refused(client, response_format):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, response_format)
    assert caught.value.param == "response_format"


def test_the_server_goes_on_behind_all_that(client):
    assert ask(client, openai.omit, max_tokens=3).usage.completion_tokens
