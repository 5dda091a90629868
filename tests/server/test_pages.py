"""What is not text: models, tokens, health, metrics, the page, the description."""

import re
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
import torch

import bitnet_jit
from bitnet_jit.server.watch import Progress

VERSE = "And it came to pass "


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.max_model_len) == ("tiny", "model", 1024)
    assert client.models.retrieve("tiny") == model


def post(address, path, body):
    return httpx.post(f"{address}{path}", json={"model": "tiny", **body})


def test_tokenize_and_back(address):
    answer = post(address, "/tokenize", {"prompt": "née"}).json()
    assert answer == {"count": 4, "max_model_len": 1024, "tokens": [110, 195, 169, 101]}
    assert post(address, "/detokenize", {"tokens": answer["tokens"]}).json() == {"prompt": "née"}
    chat = post(address, "/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json()
    assert bytes(chat["tokens"]) == b"user: x\nassistant: "


def test_what_lm_eval_asks_of_a_tokenizer(address):
    answer = httpx.post(f"{address}/tokenize", json={"prompt": "né", "add_special_tokens": False}).json()
    assert answer["tokens"] == [110, 195, 169]
    assert httpx.post(f"{address}/detokenize", json={"tokens": [110]}).json() == {"prompt": "n"}
    info = httpx.get(f"{address}/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == (None, None)
    assert info["chat_template"].startswith("{% for message in messages %}")
    assert httpx.get(f"{address}/tokenizer_info?model=other").status_code == 404


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "x"}]}, {"prompt": ""}])
def test_tokenize_refuses(address, body):
    assert post(address, "/tokenize", body).json()["error"]["param"] == "prompt"


def test_detokenize_refuses_what_is_no_token(address):
    assert post(address, "/detokenize", {"tokens": [256]}).status_code == 400


def samples(address):
    """Return the numbers of /metrics."""
    response = httpx.get(f"{address}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", response.text, re.M)}


def test_metrics_count_what_was_served(serve):
    address, engine = serve()
    body = {"prompt": VERSE * 5, "max_tokens": 10, "seed": 3}
    for stream in (False, True):
        post(address, "/v1/completions", {**body, "stream": stream})
    post(address, "/v1/completions", {"prompt": "A", "max_tokens": 1000, "n": 2, "logit_bias": {"0": 99}})
    numbers, stats = samples(address), engine.stats()["tiny"]
    label = '{model="tiny"}'
    assert numbers[f"bitnet_jit_new_tokens_total{label}"] == stats.new_tokens == 22
    assert numbers[f"bitnet_jit_prefix_hit_tokens_total{label}"] == stats.prefix_hit_tokens > 0
    assert numbers[f"bitnet_jit_steps_total{label}"] == stats.steps > 0
    assert numbers[f"bitnet_jit_pages{label}"] == stats.pages
    assert numbers[f"bitnet_jit_running_requests{label}"] == 0
    assert numbers[f"bitnet_jit_worker_alive{label}"] == 1
    assert numbers['bitnet_jit_texts_total{model="tiny",reason="length"}'] == 2
    assert numbers['bitnet_jit_texts_total{model="tiny",reason="stop"}'] == 2
    assert numbers[f"bitnet_jit_time_to_first_token_seconds_count{label}"] == 4
    assert numbers[f"bitnet_jit_time_per_token_seconds_count{label}"] == 2, "one token has no time between tokens"
    first, whole = (numbers[f"bitnet_jit_{name}_seconds_sum{label}"] for name in ("time_to_first_token", "request"))
    assert 0 < first < whole
    assert numbers[f"bitnet_jit_request_prompt_tokens_sum{label}"] == 2 * 100 + 2
    assert numbers[f"bitnet_jit_request_new_tokens_sum{label}"] == 22


def test_answers_are_counted_by_route_and_status(serve):
    address, _ = serve(keys=["k"])
    with httpx.Client(base_url=address, headers={"Authorization": "Bearer k"}) as client:
        for body in ({"prompt": "A", "max_tokens": 1}, {"prompt": "A", "max_tokens": 1}, {"prompt": ""}):
            client.post("/v1/completions", json={"model": "tiny", **body})
        client.get("/v1/models/tiny")
        client.get("/nothing/1")
        httpx.get(f"{address}/v1/models")
        text = client.get("/metrics").text
    counts = dict(re.findall(r'^bitnet_jit_http_responses_total{route="(.*)"} (.*)$', text, re.M))
    assert counts == {
        '/v1/completions",status="200': "2.0",
        '/v1/completions",status="400': "1.0",
        '/v1/models/{model_id:path}",status="200': "1.0",
        'none",status="404': "1.0",
        'none",status="401': "1.0",
    }


def test_health_of_a_worker_that_died(serve):
    address, engine = serve()
    assert httpx.get(f"{address}/health").json() == {"status": "ok", "models": {"tiny": "idle"}}
    engine.model("tiny").replica.close("it was killed")
    response = httpx.get(f"{address}/health")
    assert response.status_code == 503
    assert response.json() == {"status": "failing", "models": {"tiny": "dead"}}


@pytest.mark.parametrize("stream", [False, True])
def test_requests_of_a_stuck_worker_are_given_up(serve, monkeypatch, stream):
    address, engine = serve(stuck_s=0.3)
    replica, go_on = engine.model("tiny").replica, threading.Event()
    run = replica._run
    monkeypatch.setattr(replica, "_run", lambda plan: (go_on.wait(30), run(plan)))
    body = {"prompt": "A", "max_tokens": 3, "seed": 1}
    try:
        start = time.monotonic()
        response = post(address, "/v1/completions", {**body, "stream": stream})
        assert 0.3 < time.monotonic() - start < 10
        assert "has made no step for 0.3 s" in response.text
        assert response.status_code == (200 if stream else 503)
        health = httpx.get(f"{address}/health")
        assert (health.status_code, health.json()["models"]) == (503, {"tiny": "stuck"})
    finally:
        go_on.set()
    end = time.monotonic() + 30
    while httpx.get(f"{address}/health").json()["models"] != {"tiny": "idle"}:
        assert time.monotonic() < end
    assert post(address, "/v1/completions", body).status_code == 200


def test_a_stuck_worker_is_told_from_a_busy_one():
    progress = Progress(stuck_s=10)

    def state(now, last_step=5.0, requests=1):
        return progress.state(
            ("m", 0), SimpleNamespace(is_alive=True, is_ready=True, requests=["a"] * requests, last_step=last_step), now
        )

    assert state(100, requests=0) == "idle"
    assert state(1000) == "busy", "it has just got work"
    assert state(1009) == "busy"
    assert state(1011) == "stuck"
    assert state(1012, last_step=1011.5) == "busy"
    assert state(1021, last_step=1011.5) == "busy"
    assert state(1023, last_step=1011.5, requests=2) == "stuck"
    assert state(1024, last_step=1011.5, requests=0) == "idle"
    assert state(1025, last_step=1011.5) == "busy"


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(address):
    response = httpx.get(f"{address}/")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](?!data:)""", response.text)
    assert "http" not in re.sub(r"<!doctype html>", "", response.text)


def test_the_description_names_all_routes(address):
    description = httpx.get(f"{address}/openapi.json").json()
    paths = {"/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/health", "/metrics"}
    assert paths <= set(description["paths"])


def test_models_without_a_tokenizer_and_those_that_write_no_text(tiny, serve):
    address, engine = serve()
    mute = bitnet_jit.load()
    mute.tokenizer = None
    engine.add_model("mute", mute)
    engine.add_model("linear", torch.nn.Linear(2, 2))
    assert [model["id"] for model in httpx.get(f"{address}/v1/models").json()["data"]] == ["tiny", "mute", "linear"]
    body = {"model": "mute", "prompt": list(VERSE.encode()), "max_tokens": 2, "temperature": 0, "logprobs": 1}
    answer = post(address, "/v1/completions", body).json()["choices"][0]
    assert (answer["text"], answer["logprobs"]["tokens"]) == ("", ["token_id:97", "token_id:102"])
    for body, param in (
        ({"model": "mute", "prompt": VERSE}, "prompt"),
        ({"model": "mute", "prompt": [65], "echo": True}, "echo"),
        ({"model": "mute", "prompt": [65], "stop": "x"}, "stop"),
        ({"model": "linear", "prompt": VERSE}, "prompt"),
        ({"model": "linear", "prompt": [65]}, "model"),
    ):
        response = post(address, "/v1/completions", body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert post(address, "/detokenize", {"model": "mute", "tokens": [65]}).status_code == 400
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert httpx.get(f"{address}/metrics").status_code == 200
