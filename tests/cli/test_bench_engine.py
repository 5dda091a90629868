"""`bitnet-jit bench-engine`: the table, the files, and what is refused before anything is measured."""

import importlib.util
import json

import pytest
from typer.testing import CliRunner

from bitnet_jit.cli import bench_engine as module
from bitnet_jit.cli.app import app
from bitnet_jit.errors import InvalidInput

COLUMNS = {"COLUMNS": "200"}


def run(*arguments):
    return CliRunner().invoke(app, ["bench-engine", *arguments], catch_exceptions=False, env=COLUMNS)


def test_it_prints_a_row_per_target_and_writes_both_files(tmp_path):
    file, picture = tmp_path / "new" / "figures.json", tmp_path / "other" / "picture.png"
    result = run("--quick", "--iterations", "50", "--json", str(file), "--plot", str(picture))
    assert result.exit_code == 0
    figures = json.loads(file.read_text())
    assert len(figures["targets"]) == 11
    for target in figures["targets"]:
        assert f"{target['name']}: {target['how']}" in result.stdout
        assert target["limit_words"] in result.stdout
        assert target["is_met"] in (True, False)
    assert f"grade {figures['grade']} (" in result.stdout
    assert len(figures["latencies_ms"]) == 50
    assert figures["text_model"] == "tiny-bitnet"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--plot", "a.txt"), "plot"), (("--device", "abc"), "device"), (("no/such/model",), "no/such/model")],
)
def test_wrong_options_are_named(arguments, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Exception, match=words):
        run("--quick", *arguments)


def test_a_picture_needs_matplotlib(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="pip install matplotlib"):
        run("--plot", "a.png")


def test_iterations_are_whole(tmp_path):
    assert run("--iterations", "0").exit_code == 2
    assert module.EMBEDDED == "tiny-bitnet"
