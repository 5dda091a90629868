"""/health and /metrics of a server whose model has several replicas."""

import time

from faulty_runner import FaultyRunner
from starlette.testclient import TestClient

import bitnet_jit
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.server.app import make_app

WAIT = 30


def test_a_server_tells_of_all_replicas_together():
    with InferenceEngine() as engine:
        decoder = bitnet_jit.load()
        runners = [FaultyRunner(one) for one in engine.add_model("tiny", decoder, replicas=[decoder]).replica.members]
        with TestClient(make_app(engine)) as client:
            assert client.get("/health").json() == {"status": "ok", "models": {"tiny": "idle"}}
            ask = {"model": "tiny", "prompt": ["And ", "In ", "Thus "], "max_tokens": 9, "temperature": 0}
            texts = [choice["text"] for choice in client.post("/v1/completions", json=ask).json()["choices"]]
            runners[0].armed.append(("within", "device"))
            again = [choice["text"] for choice in client.post("/v1/completions", json=ask).json()["choices"]]
            assert again == texts
            assert client.get("/health").json() == {"status": "ok", "models": {"tiny": "idle"}}
            lines = client.get("/metrics").text.splitlines()
            assert 'bitnet_jit_finished_requests_total{model="tiny"} 6.0' in lines
            assert 'bitnet_jit_worker_alive{model="tiny"} 1.0' in lines
            runners[1].armed.append(("after", "device"))
            answer = client.post("/v1/completions", json=ask)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_closed")
            end = time.monotonic() + WAIT
            while engine.stats()["tiny"].alive:
                assert time.monotonic() < end
            health = client.get("/health")
            assert (health.status_code, health.json()["models"]) == (503, {"tiny": "dead"})
            assert 'bitnet_jit_worker_alive{model="tiny"} 0.0' in client.get("/metrics").text
