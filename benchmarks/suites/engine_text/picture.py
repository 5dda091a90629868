"""The picture of bench_engine_text.py: each figure as a bar, and the limit that it should keep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from benchmarks.suites.engine_text.figure import Figure


def draw(figures: Sequence[Figure], header: Mapping[str, Any], file: Path) -> None:
    """Write a bar for each figure in units of its limit; the format is the file's suffix."""
    canvas = Canvas(figsize=(8, 1.2 + 0.5 * len(figures)), layout="constrained")
    axes = canvas.subplots()
    names = [f"{figure.name}\n(limit {figure.limit:g}, {words(figure)})" for figure in figures]
    colors = ["tab:green" if figure.is_met else "tab:red" for figure in figures]
    bars = axes.barh(names, [figure.value / figure.limit for figure in figures], color=colors)
    axes.bar_label(bars, [f"{figure.value:.3g}" for figure in figures], fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("over its limit", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    canvas.suptitle(f"{header.get('gpu', header['cpu'])}, {header['model']}", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=120)


def words(figure: Figure) -> str:
    """Return on which side of its limit a figure should be."""
    return "more is better" if figure.more_is_better else "less is better"
