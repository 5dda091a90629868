"""The load generator: plans follow the seed and their distributions, figures follow the server."""

import asyncio
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import scripted_server
from served import running

import bitnet_jit
from benchmarks.suites.load.client import Endpoint, Outcome
from benchmarks.suites.load.drive import drive, open_client
from benchmarks.suites.load.figures import keeps, make_row, spread, times_of
from benchmarks.suites.load.lengths import MAX_TOKENS, parse_lengths
from benchmarks.suites.load.options import parse
from benchmarks.suites.load.plan import Planned, Prompts, arrivals, plan
from benchmarks.suites.load.run import run
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.server.app import make_app

WAIT = 30
PROMPTS = Prompts(parse_lengths("uniform:3:9"), parse_lengths("4"))


@given(st.integers(1, 50), st.floats(0.1, 100), st.integers(0, 2**32))
def test_arrivals_are_a_poisson_process_of_the_seed(count, rate, seed):
    times = arrivals(np.random.default_rng(seed), count, rate, 1.0)
    assert times == arrivals(np.random.default_rng(seed), count, rate, 1.0)
    assert times[0] == 0
    assert times == sorted(times)
    assert len(times) == count
    half = arrivals(np.random.default_rng(seed), count, rate / 2, 1.0)
    np.testing.assert_allclose(half, np.multiply(2, times), rtol=1e-12)


@pytest.mark.parametrize(("burstiness", "deviation"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_pauses_have_the_rate_and_the_burstiness(burstiness, deviation):
    pauses = np.diff(arrivals(np.random.default_rng(7), 20_000, 50.0, burstiness))
    assert pauses.mean() == pytest.approx(1 / 50, rel=0.05)
    assert pauses.std() / pauses.mean() == pytest.approx(deviation, rel=0.05)


def test_known_times_and_lengths_of_a_seed():
    requests = plan(PROMPTS, 4, 10.0, 1.0, seed=1)
    times = [planned.due_s for planned in requests]
    assert times == pytest.approx([0.0, 0.030845, 0.568389, 0.605032], abs=1e-6)
    assert [len(planned.prompt) for planned in requests] == [6, 5, 5, 7]
    assert times == [planned.due_s for planned in plan(PROMPTS, 4, 10.0, 1.0, seed=1, load=3)]
    assert times != [planned.due_s for planned in plan(PROMPTS, 4, 10.0, 1.0, seed=2)]


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 9))
def test_uniform_and_fixed_lengths_stay_in_their_range(low, more, seed):
    rng = np.random.default_rng(seed)
    drawn = parse_lengths(f"uniform:{low}:{low + more}").sample(rng, 200)
    assert low <= min(drawn) <= max(drawn) <= low + more
    assert more == 0 or more > 100 or len(set(drawn)) > 1
    assert parse_lengths(str(low)).sample(rng, 3) == [low] * 3 == parse_lengths(f"fixed:{low}").sample(rng, 3)


@pytest.mark.parametrize("sigma", [0, 0.3, 1])
def test_lognormal_lengths_have_their_median_and_limit(sigma):
    drawn = parse_lengths(f"lognormal:100:{sigma}:400").sample(np.random.default_rng(0), 20_000)
    assert np.median(drawn) == pytest.approx(100, rel=0.05)
    assert 1 <= min(drawn) <= max(drawn) <= 400
    inside = np.log([each for each in drawn if each < 400])
    assert sigma == 1 or inside.std() == pytest.approx(sigma, abs=0.02)


@pytest.mark.parametrize(
    "words",
    ["", "x", "0", "-1", "1.5", "uniform:3", "uniform:5:3", "uniform:0:3", "lognormal:0:1", "lognormal:9:-1", "nan"]
    + ["lognormal:9:1:5", "fixed:inf", f"fixed:{MAX_TOKENS + 1}", "normal:3:4", "uniform:1:2:3", "lognormal:nan:1"],
)
def test_other_lengths_are_refused_in_words(words):
    with pytest.raises(ValueError, match="expected 128"):
        parse_lengths(words)


def test_prompts_share_their_prefix_alone_and_lack_what_is_banned():
    prompts = Prompts(parse_lengths("uniform:5:20"), parse_lengths("9"), prefix_len=8, vocab_size=50, banned=(0, 7))
    requests = plan(prompts, 30, math.inf, 1.0, seed=3)
    assert {request.due_s for request in requests} == {0.0}
    longest = max(requests, key=lambda request: len(request.prompt)).prompt
    assert all(request.prompt[:8] == longest[:8][: len(request.prompt)] for request in requests)
    assert len({request.prompt for request in requests if len(request.prompt) > 12}) > 5
    assert {token for request in requests for token in request.prompt} <= set(range(50)) - {0, 7}
    other = plan(prompts, 30, math.inf, 1.0, seed=3, load=1)
    assert [len(request.prompt) for request in other] == [len(request.prompt) for request in requests]
    assert [request.prompt for request in other] != [request.prompt for request in requests]


def outcome(due, pieces, new=None, error=None):
    return Outcome(Planned(due, (1, 2), 9), due, pieces, 2, len(pieces) if new is None else new, error=error)


def test_figures_by_hand():
    whole, short = outcome(1.0, (1.5, 1.6, 1.9)), outcome(0.0, (0.25,))
    assert times_of(whole) == pytest.approx({"ttft": 500, "tpot": 200, "e2el": 900})
    assert times_of(short) == {"ttft": 250, "e2el": 250}
    row = make_row([whole, short, outcome(0, (), error="timeout")], 2.0, 4.0, None, {"ttft": 400})
    assert (row.requests, row.completed, row.errors) == (3, 2, {"timeout": 1})
    assert (row.requests_per_s, row.tokens_per_s, row.total_tokens_per_s, row.goodput_per_s) == (1, 2, 4, 0.5)
    assert row.ttft_ms.mean == pytest.approx(375)
    assert row.itl_ms.mean == pytest.approx(200)
    assert row.tpot_ms.p99 == pytest.approx(200)
    assert spread([]).p99 == 0


def test_goals_are_kept_together():
    whole = outcome(0.0, (0.1, 0.2))
    assert keeps(whole, {"ttft": 100.1, "tpot": 100.1})
    assert not keeps(whole, {"ttft": 100.1, "tpot": 99})
    assert not keeps(whole, {"e2el": 199})


@pytest.fixture(scope="module")
def address():
    """Return the address of a real server of the small model."""
    with InferenceEngine() as engine:
        engine.add_model("tiny", bitnet_jit.load())
        with running(make_app(engine)) as (address, _):
            yield address


@pytest.mark.parametrize("length", [["--ban-token", "0"], ["--ignore-eos"]])
def test_a_closed_loop_on_the_real_server(address, tmp_path, capsys, length):
    file, picture = tmp_path / "new" / "load.json", tmp_path / "new" / "load.png"
    options = ["--num-prompts", "7", "--max-concurrency", "2", "--input-len", "uniform:3:40", "--output-len", "5"]
    options += [*length, "--goodput", "e2el:60000", "--json", str(file), "--picture", str(picture)]
    report = run(["--base-url", address, *options])
    (row,) = report.rows
    assert (row.requests, row.completed, row.errors) == (7, 7, {})
    assert row.new_tokens == 35
    lengths = [len(planned.prompt) for planned in plan(parse("", options).prompts, 7, math.inf, 1.0, seed=0)]
    assert [request["prompt_tokens"] for request in report.requests] == lengths
    assert row.prompt_tokens == sum(lengths)
    assert row.goodput_per_s == row.requests_per_s > 0
    assert 0 < row.ttft_ms.p50 <= row.e2el_ms.p50
    assert json.loads(file.read_text())["rows"][0]["new_tokens"] == 35
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "errors: none" in capsys.readouterr().out


def test_an_open_loop_takes_as_long_as_its_times(address, tmp_path):
    options = ["--num-prompts", "6", "--request-rate", "20", "30", "--input-len", "4", "--output-len", "2"]
    report = run(["--base-url", address, *options, "--picture", str(tmp_path / "curves.png")])
    assert [row.request_rate for row in report.rows] == [20, 30]
    for row in report.rows:
        last = plan(PROMPTS, 6, row.request_rate, 1.0, seed=0)[-1].due_s
        assert last <= row.seconds < last + 5


@pytest.mark.parametrize(
    ("options", "error"),
    [(["--model", "none"], "HTTP 404"), (["--endpoint", "/v1/x"], "HTTP 404")],
)
def test_errors_are_counted_by_kind(address, options, error):
    (row,) = run(["--base-url", address, "--num-prompts", "3", "--num-warmups", "0", *options]).rows
    assert row.errors == {error: 3}
    assert row.completed == 0
    assert row.tokens_per_s == 0


class Handler(BaseHTTPRequestHandler):
    """Streams two pieces, and then what its server was told to do."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        with self.server.counts:
            self.server.open += 1
            self.server.most = max(self.server.most, self.server.open)
        for _ in range(2):
            self.wfile.write(b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n')
            self.wfile.flush()
            time.sleep(0.05)
        self.wfile.write(self.server.end)
        time.sleep(self.server.pause)
        with self.server.counts:
            self.server.open -= 1

    def log_message(self, *arguments):
        pass


def scripted(end, pause=0.0):
    """Run a server that ends its streams so."""
    return scripted_server(Handler, end=end, pause=pause, open=0, most=0, counts=threading.Lock())


def asked(address, count=1, concurrency=None, timeout=WAIT):
    async def main():
        async with open_client(address, None, timeout) as http:
            requests = [Planned(0.0, (1,), 2)] * count
            return (await drive(http, Endpoint("/v1/completions", "m"), requests, concurrency, lambda _: None))[0]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("end", "pause", "error"),
    [
        (b"data: [DONE]\n\n", 0, None),
        (b"", 0, "ended early"),
        (b'data: {"error": {"code": "queue_full", "type": "x"}}\n\ndata: [DONE]\n\n', 0, "in the stream: queue_full"),
        (b"data: {broken\n\n", 0, "JSONDecodeError"),
        (b"", 2, "timeout"),
    ],
)
def test_streams_that_fail_are_no_answers(end, pause, error):
    with scripted(end, pause) as (_, address):
        (outcome,) = asked(address, timeout=0.5)
    assert outcome.error == error
    assert outcome.new_tokens == 2
    assert outcome.pieces_s[1] - outcome.pieces_s[0] >= 0.04


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_are_open_than_asked(concurrency):
    with scripted(b"data: [DONE]\n\n") as (server, address):
        outcomes = asked(address, 6, concurrency)
    assert server.most == concurrency
    assert all(outcome.error is None for outcome in outcomes)
    last = max(outcome.pieces_s[0] - outcome.due_s for outcome in outcomes)
    assert concurrency > 1 or last < 0.4, "a client of a closed loop asks when it is free, not at the beginning"


def test_no_server_is_said_in_a_line():
    with pytest.raises(SystemExit, match="http://127.0.0.1:9"):
        run(["--base-url", "http://127.0.0.1:9"])
    assert [outcome.error for outcome in asked("http://127.0.0.1:9")] == ["no connection"]


@pytest.mark.parametrize(
    "options",
    [["--goodput", "ttft"], ["--goodput", "x:5"], ["--request-rate", "0"], ["--input-len", "0"], ["--num-prompts", "0"]]
    + [["--vocab-size", "1", "--ban-token", "0"], ["--temperature", "-1"], ["--max-concurrency", "0"]],
)
def test_wrong_options_end_it(options):
    with pytest.raises(SystemExit):
        parse("", options)
