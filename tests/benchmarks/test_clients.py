"""Many clients at once: answers are compared, and llama.cpp gets every token once, at its place."""

import json
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.models.layers import with_layers
from benchmarks.harness.models.shapes import SHAPES
from benchmarks.providers.models import llama_cpp, llama_load
from benchmarks.suites import clients


class Peer:
    """Stands for llama.cpp: the next token is a function of all tokens of its text, in their order."""

    def __init__(self):
        self.places, self.largest, self.threads = defaultdict(list), 0, 1
        remove = lambda memory, place, begin, end: self.places.pop(place)  # noqa: E731
        clear = lambda memory, data: self.places.clear()  # noqa: E731
        self.lib = SimpleNamespace(
            llama_get_memory=lambda context: None, llama_memory_clear=clear, llama_memory_seq_rm=remove
        )
        self.context = None

    def decode(self, tokens, positions, texts):
        self.largest = max(self.largest, len(tokens))
        order = list(dict.fromkeys(texts.tolist()))
        assert sum(a != b for a, b in zip(texts, texts[1:], strict=False)) == len(order) - 1, "texts lie apart"
        for token, position, text in zip(tokens.tolist(), positions.tolist(), texts.tolist(), strict=True):
            assert position == len(self.places[text])
            self.places[text].append(token)
        return np.eye(97)[[following(self.places[text]) for text in order]]


def following(tokens):
    """Return the token behind others, which all of them decide."""
    value = 0
    for token in tokens:
        value = (31 * value + token + 1) % 97
    return value


def alone(prompt, limit):
    text = list(prompt)
    for _ in range(limit):
        text.append(following(text))
    return text[len(prompt) :]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 96), min_size=1, max_size=40), st.integers(1, 9)), min_size=1),
    st.integers(1, 5),
    st.integers(5, 50),
)
@settings(max_examples=60)
def test_every_text_of_a_load_is_that_of_the_request_alone(requests, places, batch):
    before, llama_load.BATCH = llama_load.BATCH, batch
    try:
        peer = Peer()
        assert llama_load.answer_all(peer, requests, places) == [alone(*request) for request in requests]
        assert peer.largest <= batch
        assert not peer.places
    finally:
        llama_load.BATCH = before


def test_the_engine_answers_all_and_the_same(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llama_cpp, "unsupported_reason", lambda device: "not here")
    files = ["--json", str(tmp_path / "clients.json"), "--picture", str(tmp_path / "clients.png")]
    lengths = ["--input-len", "uniform:2:70", "--output-len", "uniform:1:9"]
    report = clients.run(["--shape", "small", "--clients", "5", "--serial", "3", "--turns", "1", *lengths, *files])
    together, serial = report.rows
    assert (together.clients, serial.clients) == (5, 3)
    assert together.same_as_alone == (3, 3)
    assert serial.times_serial == 1
    assert together.tokens_per_s == pytest.approx(together.new_tokens / together.seconds)
    assert [refusal.reason for refusal in report.refusals] == ["not here"]
    assert json.loads((tmp_path / "clients.json").read_text())["rows"][0]["contender"] == "together"
    assert (tmp_path / "clients.png").read_bytes().startswith(b"\x89PNG")
    assert "3 of 3" in capsys.readouterr().out


def test_answers_that_differ_are_counted():
    run = clients.Run(clients.parse("", ["--shape", "small", "--clients", "3"]), lambda _: None)
    run.answers = {clients.TOGETHER: [[1, 2], [3], [4]], clients.SERIAL: [[1, 2], [5]]}
    assert run.compared() == (1, 2)


def test_a_text_of_another_length_is_no_figure():
    run = clients.Run(clients.parse("", ["--shape", "small", "--clients", "1"]), lambda _: None)
    with pytest.raises(RuntimeError, match="requests \\[0\\] are too long or too short"):
        run.time("x", 0, lambda: [[1]])


def test_llama_cpp_takes_the_same_load(capsys):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    report = clients.run(["--shape", "small", "--clients", "3", "--turns", "1", "--output-len", "4"])
    assert [row.new_tokens for row in report.rows] == [12] * 4
    assert "the faster one of llama.cpp" in capsys.readouterr().out


def test_fewer_layers_are_fewer_weights():
    assert with_layers(SHAPES["2b-4t"], 3).open_reader().config.num_layers == 3
    assert with_layers(SHAPES["2b-4t"], None) is SHAPES["2b-4t"]
    with pytest.raises(ValueError, match="layers: small has 2, got 3"):
        with_layers(SHAPES["small"], 3)
    with pytest.raises(ValueError, match="layers"):
        with_layers(SHAPES["tiny"], 3)
