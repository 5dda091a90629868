"""The roofline of a report: operations per second of each contender over its operations per byte of weight."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness.report import LIMIT, Report, Row


def draw_roofline(report: Report, file: Path) -> None:
    """Write a picture of all matmuls of a report under the limits measured beside them; the format is the suffix.

    Raises:
        ValueError: the report has no limits of both kinds, or nothing under them.
    """
    limits = [row for row in report.rows if row.provider.startswith(LIMIT)]
    products = [row for row in report.rows if not row.provider.startswith(LIMIT) and row.gop_per_s]
    read = max((row.gb_per_s for row in limits if not row.gop_per_s), default=0.0)
    peak = max((row.gop_per_s for row in limits), default=0.0)
    if not (products and read and peak):
        raise ValueError(f"{file}: a roofline needs contenders that multiply and both limits, read and peak")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for provider in dict.fromkeys(row.provider for row in products):
        points = [(intensity(row), row.gop_per_s / 1e3) for row in products if row.provider == provider]
        axes.plot(*zip(*points, strict=True), ".", label=provider)
    intensities = list(map(intensity, products))
    across = np.geomspace(min(intensities) / 2, max(intensities) * 2, 100)
    axes.plot(across, np.minimum(across * read, peak) / 1e3, "k-", linewidth=1, label="measured limits")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte of weight")
    axes.set_ylabel("10^12 operations per second")
    axes.legend(fontsize=7)
    device = report.header.get("gpu", report.header["cpu"])
    axes.set_title(f"{device}: read {read:.0f} GB/s, peak {peak / 1e3:.0f} TOP/s", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def intensity(row: Row) -> float:
    """Return the operations per byte."""
    return row.gop_per_s / row.gb_per_s
