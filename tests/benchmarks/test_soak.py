"""The soak: a real server for some seconds, and every fault that it should tell."""

import asyncio
import json
import time
from http.server import BaseHTTPRequestHandler

import pytest
from scripted_server import scripted_server

from benchmarks.suites.load.drive import open_client
from benchmarks.suites.soak import run as module
from benchmarks.suites.soak.clients import LEFT, SHARES, Tally, client
from benchmarks.suites.soak.process import Sample


def samples(rss=lambda i: 100.0, files=lambda i: 9, threads=lambda i: 5):
    return [Sample(float(i), rss(i), files(i), threads(i), i, 0) for i in range(30)]


def happy():
    tally = Tally()
    tally.done["whole"] = 5
    return tally


def test_a_flat_run_has_no_fault():
    assert module.wrong(samples(), happy()) == []
    assert module.wrong(samples(rss=lambda i: 60 + min(i, 10) * 4), happy()) == [], "the first third warms up"
    assert module.wrong(samples(files=lambda i: 9 + i % 3), happy()) == []


@pytest.mark.parametrize(
    ("series", "words"),
    [
        ({"rss": lambda i: 100.0 + 2 * i}, "rss_mb grew"),
        ({"files": lambda i: 9 + i // 5}, "files grew"),
        ({"threads": lambda i: 5 + i // 10}, "threads grew"),
    ],
)
def test_growth_is_a_fault(series, words):
    (problem,) = module.wrong(samples(**series), happy())
    assert words in problem


def test_errors_other_texts_and_silence_are_faults():
    tally = Tally()
    body = {"prompt": "a", "max_tokens": 1, "seed": 2}
    assert module.wrong(samples(), tally) == ["no request was answered"]
    tally.take("whole", body, "x")
    tally.take("streamed", body, "x")
    tally.take("whole", body | {"seed": 3}, "y")
    assert tally.changed == 0
    tally.take("whole", body, "y")
    tally.errors["HTTP 500"] += 2
    assert module.wrong(samples(), tally) == ["2 errors: HTTP 500", "1 answers were another text than before"]
    assert module.ended(1, ["x", "Traceback (most recent call last):"]) == ["exit code 1", "a traceback in the log"]
    assert module.ended(0, ["fine"]) == []


def test_a_real_server_serves_all_kinds_and_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "GROWTH_MB", 1e6)  # pages of the cache are touched for the first time
    monkeypatch.setattr(module, "SAMPLES", 6)
    file = tmp_path / "soak.json"
    code = module.run(["--minutes", "0.05", "--clients", "3", "--json", str(file), "--", "--max-running", "4"])
    figures = json.loads(file.read_text())
    problems = [each for each in figures["problems"] if "grew" not in each]  # few samples: clients still connect
    assert problems == []
    assert code == bool(figures["problems"])
    assert set(figures["done"]) == set(SHARES)
    assert figures["errors"] == {}
    assert len(figures["rows"]) >= 3
    assert figures["rows"][-1]["done"] == sum(figures["done"].values())
    assert "answers" in capsys.readouterr().out


class Failing(BaseHTTPRequestHandler):
    """Answers with an error, or breaks its streams off."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200 if body["stream"] else 500)
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"text": "a"}]}\n\n' if body["stream"] else b"no")

    def log_message(self, *arguments):
        pass


def test_errors_of_clients_are_noted_by_kind():
    tally = Tally()

    async def main(address):
        async with open_client(address, None, 5) as http:
            await asyncio.gather(*(client(http, "m", seed, time.monotonic() + 0.5, tally) for seed in range(8)))

    with scripted_server(Failing) as (_, address):
        asyncio.run(main(address))
    assert set(tally.errors) == {"HTTP 500", "ValueError"}
    assert not tally.done[LEFT]


def test_what_still_runs_is_told(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0.2)
    lines = 'bitnet_jit_running_requests{model="m"} 2.0\nbitnet_jit_waiting_requests{model="m"} 0.0\nother 5.0\n'

    class Http:
        async def get(self, path):
            return type("Answer", (), {"text": lines})

    assert asyncio.run(module.still_active(Http())) == ['still active: bitnet_jit_running_requests{model="m"} 2.0']
