"""Pictures of medians: bars for a few cases, curves where many numbers of rows were measured."""

import pytest

from benchmarks.harness import picture
from benchmarks.harness.report import Report, Row


def row(provider, rows, shape="8x4"):
    return Row("op", shape, rows, provider, 1, "cold", 2.0 + rows, 1.0, 1.0, 1.0, 1, None, None)


def test_many_numbers_of_rows_become_a_curve_for_each_contender_and_a_panel_for_each_shape():
    rows = [row(name, m, shape) for shape in ("8x4", "4x8") for name in ("a", "b") for m in (1, 2, 4, 8, 16)]
    rows = [r for r in rows if (r.provider, r.shape) != ("b", "4x8") or r.rows > 2]  # one that did not always take part
    figure = picture.curves(rows, ["a", "b"])
    assert [axes.get_title() for axes in figure.axes] == ["op 8x4, 1 threads, cold", "op 4x8, 1 threads, cold"]
    first, second = figure.axes
    assert [line.get_label() for line in first.lines] == ["a", "b"]
    assert list(second.lines[1].get_xdata()) == [4, 8, 16]
    assert list(second.lines[1].get_ydata()) == [6.0, 10.0, 18.0]


def test_a_few_cases_become_bars_with_readable_labels():
    figure = picture.bars([row("a", 1), row("b", 1), row("a", 2)], ["a", "b"])
    (axes,) = figure.axes
    assert [bar.get_height() for bars in axes.containers for bar in bars] == [3.0, 4.0, 3.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["op\n8x4\nM=1", "op\n8x4\nM=2"]


@pytest.mark.parametrize("numbers", [(1, 2), (1, 2, 3, 4, 5)])
def test_either_is_written(tmp_path, numbers):
    rows = tuple(row("a", m) for m in numbers)
    picture.draw(Report({"cpu": "a"}, (*rows, row("limit:read", 1)), ()), tmp_path / "new" / "it.svg")
    drawn = (tmp_path / "new" / "it.svg").read_text()
    assert "<!-- a -->" in drawn
    assert "limit" not in drawn


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="every provider was refused"):
        picture.draw(Report({"cpu": ""}, (), ()), tmp_path / "empty.png")
