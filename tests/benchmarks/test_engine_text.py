"""Figures of texts through the engine: they are made of what was measured, and wrong texts are no figures."""

import json

import pytest

from benchmarks.harness.models.shapes import SHAPES
from benchmarks.providers.models.ours import build_decoder
from benchmarks.suites.engine_text import bare, prefix, stall
from benchmarks.suites.engine_text.figure import Figure
from benchmarks.suites.engine_text.options import parse
from benchmarks.suites.engine_text.run import run
from bitnet_jit.engine.text.pace import Pace
from bitnet_jit.engine.text.prefix_cache import PrefixCache

SMALL = ["--shape", "small", "--turns", "1", "--batch", "3", "--steps", "5", "--streams", "2", "--long-prompt", "300"]
SMALL += ["--prefix", "200"]


def quiet(words):
    pass


@pytest.fixture(scope="module")
def decoder():
    return build_decoder(SHAPES["small"], "cpu", "int8")


def test_all_parts_make_figures_and_files(tmp_path, capsys):
    file, picture = tmp_path / "engine.json", tmp_path / "engine.png"
    report = run([*SMALL, "--json", str(file), "--picture", str(picture)])
    assert [figure.part for figure in report.rows] == ["bare", "stall", "prefix"]
    one, long, cached = report.rows
    assert one.value == pytest.approx(one.details["engine_tokens_per_s"] / one.details["generate_tokens_per_s"])
    assert long.value == pytest.approx(long.details["longest_ms"] / long.details["usual_ms"])
    assert cached.value == pytest.approx(cached.details["cached_s"] / cached.details["uncached_s"])
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == [figure.name for figure in report.rows]
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(f"{figure.value:.3f}" in printed for figure in report.rows)


@pytest.mark.parametrize(
    ("more", "value", "met"), [(True, 0.97, True), (True, 0.96, False), (False, 0.97, True), (False, 1, False)]
)
def test_limits_decide(more, value, met):
    assert Figure("bare", "x", value, 0.97, more, {}).is_met == met


def test_other_texts_are_no_figure(decoder, monkeypatch):
    options = parse("", SMALL)
    generate = type(decoder).generate
    monkeypatch.setattr(type(decoder), "generate", lambda self, *args, **options: generate(self, *args, **options) + 1)
    with pytest.raises(RuntimeError, match="other texts"):
        bare.compare(decoder, options, 2, quiet)


def test_a_prefix_that_is_not_kept_is_no_figure(decoder, monkeypatch):
    monkeypatch.setattr(PrefixCache, "keep", lambda self, ids, sequence: None)
    with pytest.raises(RuntimeError, match="cached: 0 of 200 tokens"):
        prefix.prefix(decoder, parse("", SMALL), quiet)


def test_a_prompt_that_is_read_at_once_stalls_the_streams(decoder, monkeypatch):
    """A worker that forgets its pace reads the whole prompt in one step, during which no stream goes on."""
    options = parse("", [*SMALL, "--long-prompt", "6000", "--turns", "3"])
    paced = stall.stall(decoder, options, quiet)
    monkeypatch.setattr(Pace, "budget", lambda *_: 10**6)
    at_once = stall.stall(decoder, options, quiet)
    assert at_once.value > 3 * paced.value
    assert not at_once.is_met


def test_streams_that_end_early_are_no_figure(decoder, monkeypatch):
    monkeypatch.setattr(stall, "MAX_NEW", 10)
    with pytest.raises(RuntimeError, match="ended before the prompt was read"):
        stall.stall(decoder, parse("", SMALL), quiet)
