"""The picture of loads: histograms of the times of one, curves over the rate or the concurrency of several."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.suites.load.client import Outcome
from benchmarks.suites.load.figures import TPOT, TTFT, LoadRow, pauses_of, times_of

BINS = 40


def draw(rows: Sequence[LoadRow], outcomes: Sequence[Outcome], title: str, file: Path) -> None:
    """Write the picture; the format is the file's suffix.

    Args:
        rows: the figures of each load.
        outcomes: of the last one.
        title: of the picture.
        file: where to.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    (draw_histograms if len(rows) == 1 else draw_curves)(axes, rows, outcomes)
    for each in axes:
        each.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def draw_histograms(axes, rows: Sequence[LoadRow], outcomes: Sequence[Outcome]) -> None:
    """Draw the times of one load's requests, with lines at P50 and P99."""
    completed = [outcome for outcome in outcomes if outcome.error is None]
    times = [times_of(outcome) for outcome in completed]
    drawn = (
        ("time to first token, ms", [each[TTFT] for each in times if TTFT in each], rows[0].ttft_ms),
        ("time per token, ms", [each[TPOT] for each in times if TPOT in each], rows[0].tpot_ms),
        ("between pieces, ms", [pause for each in completed for pause in pauses_of(each)], rows[0].itl_ms),
    )
    for panel, (name, values, spread) in zip(axes, drawn, strict=True):
        panel.hist(values, bins=BINS)
        panel.axvline(spread.p50, color="black", linewidth=1, label=f"P50: {spread.p50:.1f}")
        panel.axvline(spread.p99, color="tab:red", linewidth=1, label=f"P99: {spread.p99:.1f}")
        panel.legend(fontsize=7)
        panel.set_xlabel(name, fontsize=8)
        panel.set_ylabel("requests" if panel is not axes[2] else "pieces", fontsize=8)


def draw_curves(axes, rows: Sequence[LoadRow], outcomes: Sequence[Outcome]) -> None:
    """Draw tokens per second, times to first tokens and times per token over the loads."""
    by_rate = len({row.request_rate for row in rows}) > 1
    places = [row.request_rate if by_rate else row.concurrency for row in rows]
    at = [place if place is not None else index + 1 for index, place in enumerate(places)]
    axes[0].plot(at, [row.tokens_per_s for row in rows], "o-")
    axes[0].set_ylabel("new tokens per second", fontsize=8)
    for panel, field, name in ((axes[1], "ttft_ms", "time to first token, ms"), (axes[2], "tpot_ms", "per token, ms")):
        for share in ("p50", "p99"):
            panel.plot(at, [getattr(getattr(row, field), share) for row in rows], "o-", label=share.upper())
        panel.set_ylabel(name, fontsize=8)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
        panel.legend(fontsize=7)
    for panel in axes:
        panel.set_xlabel("requests per second" if by_rate else "requests at a time", fontsize=8)
