"""The picture of bench_clients.py: new tokens per second of each way to serve the clients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(rates: Sequence[tuple[str, float]], header: Mapping[str, Any], file: Path) -> None:
    """Write bars of tokens per second; the format is the file's suffix.

    Args:
        rates: name and tokens per second of each contender.
        header: of the report.
        file: where to.
    """
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar([name for name, _ in rates], [rate for _, rate in rates], 0.6)
    axes.bar_label(bars, fmt="{:,.4g}", fontsize=7)
    axes.set_ylabel("new tokens per second", fontsize=8)
    axes.tick_params(labelsize=7)
    figure.suptitle(f"{header['cpu']}, {header['threads']} threads, {header['model']}", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
