"""The OpenAPI description holds: schemathesis draws requests from it, good and bad ones, and checks the answers."""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.server.app import make_app

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
EXAMPLES = 70
# prompts may be too long for the model and schemas have no end, which no description tells: 400 is right then
UNTOLD = [positive_data_acceptance]


ENGINE = InferenceEngine()  # without a model it is nothing; the description is read when tests are collected
APP = make_app(ENGINE, {"tiny": ChatTemplate(TEMPLATE)})
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@pytest.fixture(scope="module", autouse=True)
def model(tiny):
    with ENGINE:
        ENGINE.add_model("tiny", tiny)
        yield


@pytest.fixture(scope="module")
def statuses():
    """Return how often each route gave each status; each gave its answer at least once."""
    counts = Counter()
    yield counts
    routes = {route for route, _ in counts}
    assert len(routes) == 10
    assert {route for route, status in counts if status == 200} == routes


def made_possible(body):
    """Change values that the description allows to those that a small model takes, and quickly; leave the others."""
    if isinstance(body.get("model"), str):
        body["model"] = "tiny"
    for name, most in (("max_tokens", 5), ("max_completion_tokens", 5), ("n", 2), ("top_logprobs", 2)):
        if type(body.get(name)) is int and body[name] > most:
            body[name] = most
    if "messages" in body and body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = 5  # all of the context otherwise
    if isinstance(body.get("prompt"), str) and isinstance(body.get("messages"), list):
        body["messages"] = None
    for name in ("prompt", "input"):
        if isinstance(body.get(name), str):
            body[name] = body[name][:9] or "x"


@schema.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case, statuses):
    if isinstance(case.body, dict):
        made_possible(case.body)
    if "model_id" in (case.path_parameters or {}):
        case.path_parameters["model_id"] = "tiny"
    response = case.call_and_validate(excluded_checks=UNTOLD)
    statuses[case.operation.label, response.status_code] += 1
