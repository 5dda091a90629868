"""The suite of tuning: choices beside an exhaustive search, and words where a search is undecided."""

import json

import pytest

from benchmarks.suites.tuning import compare
from benchmarks.suites.tuning.run import run


@pytest.fixture
def no_time(monkeypatch):
    """Give no time to measurements, where figures do not matter."""
    for name in ("EACH", "BEST", "LAST"):
        monkeypatch.setattr(compare, name, 0.0)


def test_training_is_tuned_for_codes_and_i2_only(capsys):
    with pytest.raises(SystemExit):
        run(["--op", "quantized_linear", "--packing", "t5"])
    assert "--op quantized_linear is of i2 weights and int8 codes" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--op", "quantized_linear"], ["--layout", "i2"]])
@pytest.mark.usefixtures("no_time")
def test_tuning_is_compared_with_all_configs(more, tmp_path, capsys):
    file = tmp_path / "figures.json"
    (line,) = run(["--shapes", "64x96", "--rows", "1", "--json", str(file), *more])
    assert line.competed >= (1 if "--layout" in more else 4)
    assert line.best["microseconds"] <= line.default["microseconds"]
    assert all(ratio is None or ratio >= 1 for ratio in line.ratios())
    assert json.loads(file.read_text())[0]["shape"] == "64x96"
    text = capsys.readouterr().out
    assert "within 5 %" in text
    assert "full tuning against the default" in text


@pytest.mark.usefixtures("no_time")
def test_undecided_searches_are_told(capsys, monkeypatch):
    """Search as on a machine that is too busy to tell."""
    monkeypatch.setattr(compare, "choose", lambda among, measure, effort: None)
    (line,) = run(["--shapes", "64x96", "--rows", "1", "--layout", "i2"])
    assert line.ratios() == [None] * 3
    text = capsys.readouterr().out
    assert text.count("found nothing") == 3
    assert "at no problem did both full searches find something" in text
    assert "full tuning against the default: nothing was found" in text
