"""A picture of a report: the median of every contender.

Bars, with a panel for each number of threads and cache state; or, where many numbers of rows were measured, curves over
them with a panel for each shape.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.harness.report import LIMIT, Report, Row

BAR_INCHES = 0.16
LABEL_INCHES = 1.1  # at least, for what stands below the bars of a case
CURVE_POINTS = 5  # numbers of rows from which on they make a curve
COLUMNS = 4  # panels of curves side by side


def draw(report: Report, file: Path) -> None:
    """Write the medians, in microseconds on a logarithmic scale; the format is the file's suffix.

    Raises:
        ValueError: the report has no rows.
    """
    rows = [row for row in report.rows if not row.provider.startswith(LIMIT)]
    if not rows:
        raise ValueError(f"{file}: nothing to draw, every provider was refused")
    providers = list(dict.fromkeys(row.provider for row in rows))
    figure = (curves if len({row.rows for row in rows}) >= CURVE_POINTS else bars)(rows, providers)
    figure.axes[0].legend(fontsize=7, ncols=2)
    figure.suptitle(report.header.get("gpu", report.header["cpu"]), fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def curves(rows: Sequence[Row], providers: Sequence[str]) -> Figure:
    """Draw curves over the number of rows: a panel for each shape, a colour for each contender."""
    panels = list(dict.fromkeys((row.op, row.shape, row.threads, row.cache) for row in rows))
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * min(COLUMNS, len(panels)), 3.2 * lines), layout="constrained")
    for axes, panel in zip(figure.subplots(lines, min(COLUMNS, len(panels)), squeeze=False).flat, panels, strict=False):
        for provider in providers:
            case = (*panel, provider)
            points = [row for row in rows if (row.op, row.shape, row.threads, row.cache, row.provider) == case]
            axes.plot([row.rows for row in points], [row.median_us for row in points], ".-", label=provider)
        axes.set_title("{} {}, {} threads, {}".format(*panel), fontsize=8)
        scale_axes(axes)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


def scale_axes(axes) -> None:
    """Make both axes of a panel of curves logarithmic, with plain numbers beside them."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter("")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=7)
    axes.set_xlabel("rows", fontsize=8)
    axes.set_ylabel("median, us", fontsize=8)


def bars(rows: Sequence[Row], providers: Sequence[str]) -> Figure:
    """Draw bars: a panel for each number of threads and cache state."""
    panels = list(dict.fromkeys((row.threads, row.cache) for row in rows))
    most = max(len(cases(panel_rows(rows, panel))) for panel in panels)
    width = max(6.0, 1.5 + most * max(LABEL_INCHES, BAR_INCHES * (len(providers) + 2)))
    figure = Figure(figsize=(width, 3.4 * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), sharey=True, squeeze=False)[:, 0], panels, strict=True):
        draw_panel(axes, panel_rows(rows, panel), providers)
        axes.set_title(f"{panel[0]} threads, {panel[1]}", loc="left", fontsize=9)
    return figure


def panel_rows(rows: Sequence[Row], panel: tuple[int, str]) -> list[Row]:
    return [row for row in rows if (row.threads, row.cache) == panel]


def cases(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((row.op, row.shape, row.rows) for row in rows))


def draw_panel(axes, rows: Sequence[Row], providers: Sequence[str]) -> None:
    """Draw a group of bars for each case, a colour for each contender."""
    places = {case: place for place, case in enumerate(cases(rows))}
    width = 0.8 / len(providers)
    for number, provider in enumerate(providers):
        group = [row for row in rows if row.provider == provider]
        at = [places[row.op, row.shape, row.rows] + (number - (len(providers) - 1) / 2) * width for row in group]
        axes.bar(at, [row.median_us for row in group], width, label=provider)
    axes.set_xticks(list(places.values()), [f"{op}\n{shape}\nM={rows}" for op, shape, rows in places], fontsize=6)
    axes.set_yscale("log")
    axes.set_ylabel("median, us", fontsize=8)
