"""The picture of `bitnet-jit bench-engine`: a histogram of latencies, and throughput against concurrency."""

from pathlib import Path
from typing import Any

from bitnet_jit.engine.targets.figures import Point
from bitnet_jit.engine.targets.report import EngineReport

BINS = 60
SHOWN = 0.999  # of the calls: few that waited for others would squeeze the rest


def draw(report: EngineReport, file: Path) -> None:
    """Write the picture; the format is the file's suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_latencies(left, report)
    draw_points(middle, report.rows, "callers of engine.infer", "rows per second, 768 -> 768")
    draw_points(right, report.tokens, "texts at a time", f"tokens per second, {report.text_model}")
    figure.suptitle(f"{report.device}, {report.threads} CPU threads, grade {report.graded.grade()}", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def draw_latencies(axes: Any, report: EngineReport) -> None:
    """Draw how many calls took how long, and lines at percentiles."""
    end = report.latencies.quantile(SHOWN)
    shown = [each for each in report.latencies.milliseconds if each <= end]
    axes.hist(shown, bins=BINS, color="tab:blue")
    for share, color in ((0.5, "black"), (0.99, "tab:red")):
        value = report.latencies.quantile(share)
        axes.axvline(value, color=color, linewidth=1, label=f"P{100 * share:g}: {value:.3f} ms")
    axes.legend(fontsize=7)
    axes.set_xlabel("ms per call of engine.infer, 1 M parameters", fontsize=8)
    axes.set_ylabel("calls", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_points(axes: Any, points: tuple[Point, ...], xlabel: str, ylabel: str) -> None:
    """Draw throughput over concurrency."""
    axes.plot([point.concurrency for point in points], [point.per_second for point in points], "o-")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
