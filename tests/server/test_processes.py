"""A server whose model is written by processes: its answers are those of a thread, whoever kills a process."""

from concurrent.futures import ThreadPoolExecutor

import httpx
from http_histories import WAIT, Ask, check_whole, fetch
from process_engines import kill, kill_and_wait, serving, wait_ready
from served import running, wait_until

from bitnet_jit.engine.text.processes import restarts as restarts_file
from bitnet_jit.server.app import make_app

MESSAGES = [{"role": "user", "content": "And it came to pass"}]


def post(address, path, body):
    answer = httpx.post(f"{address}{path}", json={"model": "tiny", **body}, timeout=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_answers_are_whole_whoever_is_killed(monkeypatch):
    monkeypatch.setattr(restarts_file, "PAUSE_S", 0.05)
    asks = [Ask(start=number % 5, limit=120, seed=number, n=2, stream=bool(number % 2)) for number in range(10)]
    with serving(2) as (engine, members), running(make_app(engine)) as (address, _), ThreadPoolExecutor(20) as clients:
        answers = [clients.submit(fetch, address, ask) for ask in asks]
        wait_until(lambda: all(member.stats().new_tokens for member in members))
        kill_and_wait(members[0])
        assert engine.stats()["tiny"].replicas_alive == 1
        health = httpx.get(f"{address}/health", timeout=WAIT)
        assert (health.status_code, health.json()["models"]) == (200, {"tiny": "starting"})
        wait_ready(members)
        kill(members[1])
        for ask, answer in zip(asks, answers, strict=True):
            check_whole(ask, answer.result(WAIT))
        wait_ready(members)
        assert httpx.get(f"{address}/health", timeout=WAIT).json()["models"] == {"tiny": "idle"}
        metrics = httpx.get(f"{address}/metrics", timeout=WAIT).text
        assert 'bitnet_jit_restarts_total{model="tiny"} 2.0' in metrics
        assert 'bitnet_jit_failed_requests_total{model="tiny"} 0.0' in metrics


def test_all_routes_know_a_model_in_a_process():
    with serving(1) as (engine, _), running(make_app(engine)) as (address, _):
        (card,) = httpx.get(f"{address}/v1/models", timeout=WAIT).json()["data"]
        assert (card["id"], card["max_model_len"]) == ("tiny", 512 * 2)
        tokens = post(address, "/tokenize", {"prompt": "And"})["tokens"]
        assert tokens == list(b"And")
        assert post(address, "/detokenize", {"tokens": tokens})["prompt"] == "And"
        vector = post(address, "/v1/embeddings", {"input": "And it came"})["data"][0]["embedding"]
        assert vector == engine.embed("tiny", ["And it came"])[0].tolist()
        text = post(address, "/v1/completions", {"prompt": "And ", "max_tokens": 9, "logprobs": 1})["choices"][0]
        assert len(text["logprobs"]["tokens"]) == 9
