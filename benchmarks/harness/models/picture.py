"""A picture of whole models: tokens per second of every contender as bars, and a line across them at the bound."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.harness.models.report import BOUND, ModelReport, Row

GROUP_INCHES = 1.6  # of a case's bars
PANEL_INCHES = 2.6
GROUP_WIDTH = 0.8

Panel = tuple[str, str, str, int, int]  # figure, shape, head, threads, batch


def draw(report: ModelReport, file: Path) -> None:
    """Write the picture; the format is the file's suffix. A panel for each figure, head, number of threads and batch.

    Raises:
        ValueError: the report has no rows.
    """
    if not report.rows:
        raise ValueError(f"{file}: nothing to draw, no contender took part")
    names = list(dict.fromkeys(row.contender for row in report.rows if row.contender != BOUND))
    panels = list(dict.fromkeys(panel_of(row) for row in report.rows))
    most = max(len(places_of(rows_of(report, panel))) for panel in panels)
    size = (max(7.0, 1.5 + GROUP_INCHES * most), PANEL_INCHES * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        draw_panel(axes, rows_of(report, panel), names)
        axes.set_title(title_of(panel, on_gpu="gpu" in report.header), loc="left", fontsize=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=7, ncols=4)
    figure.suptitle(report.header.get("gpu", report.header["cpu"]), fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def panel_of(row: Row) -> Panel:
    return row.figure, row.shape, row.head, row.threads, row.batch


def title_of(panel: Panel, on_gpu: bool) -> str:
    """Return a panel's title; the threads of a CPU say nothing of a GPU."""
    figure, shape, head, threads, batch = panel
    return f"{figure}: {shape}, head {head}, {'' if on_gpu else f'{threads} threads, '}batch {batch}"


def rows_of(report: ModelReport, panel: Panel) -> list[Row]:
    return [row for row in report.rows if panel_of(row) == panel]


def places_of(rows: Sequence[Row]) -> dict[int, int]:
    """Return the place of each context from left to right."""
    return {context: place for place, context in enumerate(dict.fromkeys(row.context for row in rows))}


def draw_panel(axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Draw a group of bars for each context, a colour for each contender, and the bounds across them."""
    places, width = places_of(rows), GROUP_WIDTH / len(names)
    for number, name in enumerate(names):
        group = [row for row in rows if row.contender == name]
        shift = (number - (len(names) - 1) / 2) * width
        at = [places[row.context] + shift for row in group]
        bars = axes.bar(at, [row.tokens_per_s for row in group], width, label=name)
        axes.bar_label(bars, fmt=lambda rate: f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}", fontsize=6)
    bounds = [row for row in rows if row.contender == BOUND]
    left, right = ([places[row.context] + side * GROUP_WIDTH / 2 for row in bounds] for side in (-1, 1))
    axes.hlines([row.tokens_per_s for row in bounds], left, right, colors="black", label=BOUND)
    axes.set_xticks(list(places.values()), [f"{context} tokens" for context in places], fontsize=7)
    axes.set_ylabel("tokens per second", fontsize=8)
