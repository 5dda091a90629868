"""The table and the picture of training steps."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.harness.table import compared
from benchmarks.suites.training.measure import LayerRow


def layer_table(rows: Sequence[LayerRow]) -> Table:
    """Return a table with a line per contender and way."""
    table = Table("weights", "way", "layer", title="forward and backward of the block", title_justify="left")
    for title in ("median us", "min us", "than BitLinear", "MHz", "MB per step", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    ours = {(row.weights, row.way): row.median_us for row in rows if row.layer == "BitLinear"}
    for row in rows:
        if row.median_us is None:
            table.add_row(row.weights, row.way, row.layer, "failed")  # the reason was printed when it did
            continue
        reference = ours.get((row.weights, row.way))
        table.add_row(
            row.weights,
            row.way,
            row.layer,
            f"{row.median_us:.0f}",
            f"{row.min_us:.0f}",
            "" if reference is None or row.layer == "BitLinear" else compared(row.median_us, reference),
            "" if row.clock_mhz is None else str(row.clock_mhz),
            "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
            f"{row.error:.4f}",
        )
    return table


def draw(rows: Sequence[LayerRow], device: str, file: Path) -> None:
    """Draw bars of the medians: a panel for each dtype of weights, a group for each way."""
    dtypes, ways = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("weights", "way"))
    layers = list(dict.fromkeys(row.layer for row in rows))
    figure = Figure(figsize=(5 * len(dtypes), 3.6), layout="constrained")
    width = 0.8 / len(layers)
    for axes, dtype in zip(figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0], dtypes, strict=True):
        for number, layer in enumerate(layers):
            group = [row for row in rows if (row.weights, row.layer) == (dtype, layer) and row.median_us is not None]
            at = [ways.index(row.way) + (number - (len(layers) - 1) / 2) * width for row in group]
            axes.bar(at, [row.median_us / 1e3 for row in group], width, label=layer)  # type: ignore[operator]
        axes.set_xticks(range(len(ways)), ways)
        axes.set_title(f"{dtype} weights", fontsize=9)
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("forward and backward, ms", fontsize=8)
    figure.suptitle(device, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
