"""A picture of a report: the median of every contender, a panel for each number of threads and cache state."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from report import LIMIT, Report, Row

BAR_INCHES = 0.16


def draw(report: Report, file: Path) -> None:
    """Write bars of the medians, in microseconds on a logarithmic scale; the format is the file's suffix.

    Raises:
        ValueError: the report has no rows.
    """
    rows = [row for row in report.rows if not row.provider.startswith(LIMIT)]
    if not rows:
        raise ValueError(f"{file}: nothing to draw, every provider was refused")
    panels = list(dict.fromkeys((row.threads, row.cache) for row in rows))
    providers = list(dict.fromkeys(row.provider for row in rows))
    counts = [len(cases(panel_rows(rows, panel))) for panel in panels]
    width = max(6.0, 1.5 + BAR_INCHES * max(counts) * (len(providers) + 2))
    figure = Figure(figsize=(width, 3.2 * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), sharey=True, squeeze=False)[:, 0], panels, strict=True):
        draw_panel(axes, panel_rows(rows, panel), providers)
        axes.set_title(f"{panel[0]} threads, {panel[1]}", loc="left", fontsize=9)
    figure.axes[0].legend(fontsize=7, ncols=4)
    figure.suptitle(report.header.get("gpu", report.header["cpu"]), fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def panel_rows(rows: Sequence[Row], panel: tuple[int, str]) -> list[Row]:
    return [row for row in rows if (row.threads, row.cache) == panel]


def cases(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((row.op, row.shape, row.rows) for row in rows))


def draw_panel(axes, rows: Sequence[Row], providers: Sequence[str]) -> None:
    """A group of bars for each case, a colour for each contender."""
    places = {case: place for place, case in enumerate(cases(rows))}
    width = 0.8 / len(providers)
    for number, provider in enumerate(providers):
        own = [row for row in rows if row.provider == provider]
        at = [places[row.op, row.shape, row.rows] + (number - (len(providers) - 1) / 2) * width for row in own]
        axes.bar(at, [row.median_us for row in own], width, label=provider)
    axes.set_xticks(list(places.values()), [f"{op} {shape}\nM={rows}" for op, shape, rows in places], fontsize=6)
    axes.set_yscale("log")
    axes.set_ylabel("median, us", fontsize=8)
