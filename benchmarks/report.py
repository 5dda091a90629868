"""What a benchmark says: rows with their limits, as a table for people and as JSON for everything else."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bitnet_jit.devices.cpu import available_cores, cpu_name
from timing import Times
from work import Contender

PACKAGES = ("bitnet-jit", "torch", "numba", "triton", "numpy", "llama-cpp-python", "gemlite")
LIMIT = "limit:"
FILE_WIDTH = 120  # characters of a table that goes to a file


@dataclass(frozen=True)
class Row:
    """One contender at one case.

    Attributes:
        op: what is done.
        shape: of the weight, "OUTxIN".
        rows: M.
        cache: "hot" or "cold".
        gb_per_s: the packed weight (or all tensors of row-wise work) over the median, 10^9 bytes.
        gop_per_s: multiplications and additions over the median, 10^9.
        rows_per_s: rows over the median.
        limit: which limit is the nearer one, "peak" or "read"; None where none was measured.
        share_of_limit: the time that this limit allows over the median.
    """

    op: str
    shape: str
    rows: int
    provider: str
    threads: int
    cache: str
    median_us: float
    min_us: float
    gb_per_s: float
    gop_per_s: float
    rows_per_s: int
    limit: str | None
    share_of_limit: float | None


@dataclass(frozen=True)
class Refusal:
    """A provider that did not take part, and why."""

    shape: str
    rows: int
    provider: str
    reason: str


@dataclass(frozen=True)
class Report:
    header: dict[str, Any]
    rows: tuple[Row, ...]
    refusals: tuple[Refusal, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def header(**facts: Any) -> dict[str, Any]:
    """Where and when figures were measured, and with which versions."""
    installed = {package: version_of(package) for package in PACKAGES}
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version for package, version in installed.items() if version},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def best_rates(contenders: Sequence[Contender], times: dict[str, Times]) -> dict[str, float]:
    """The limits among the contenders: operations ("peak") and bytes ("read") a microsecond, by their medians."""
    best: dict[str, float] = {}
    for contender in contenders:
        if contender.name.startswith(LIMIT):
            kind, amount = ("peak", contender.num_ops) if contender.num_ops else ("read", contender.num_bytes)
            best[kind] = max(best.get(kind, 0.0), amount / times[contender.name].median)
    return best


def make_row(
    op: str, shape: str, rows: int, threads: int, cache: str, contender: Contender, times: Times, rates
) -> Row:
    """The figures of one contender; `rates` are those of `best_rates`."""
    allowed = {"peak": contender.num_ops, "read": contender.num_bytes}
    needed = {kind: allowed[kind] / rate for kind, rate in rates.items()}
    limit = max(needed, key=needed.__getitem__, default=None)
    return Row(
        op=op,
        shape=shape,
        rows=rows,
        provider=contender.name,
        threads=threads,
        cache=cache,
        median_us=round(times.median, 2),
        min_us=round(times.least, 2),
        gb_per_s=round(contender.num_bytes / times.median / 1e3, 2),
        gop_per_s=round(contender.num_ops / times.median / 1e3, 2),
        rows_per_s=round(rows / times.median * 1e6),
        limit=limit,
        share_of_limit=round(needed[limit] / times.median, 3) if limit else None,
    )


def print_report(report: Report) -> None:
    """A table for every case; the last column tells how many times as long as the first contender each one takes."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for case, group in groupby(report.rows, key=lambda row: (row.op, row.shape, row.rows, row.threads, row.cache)):
        op, shape, rows, threads, cache = case
        found = list(group)
        table = Table(title=f"{op} {shape}, {rows} rows, {threads} threads, {cache}", title_justify="left")
        for name in ("provider", "median us", "least us", "GB/s", "GOP/s", "rows/s", "of limit", "limit", "x first"):
            table.add_column(name, justify="left" if name in ("provider", "limit") else "right", no_wrap=True)
        for row in found:
            share = "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}"
            figures = (f"{row.median_us:.1f}", f"{row.min_us:.1f}", f"{row.gb_per_s:.1f}", f"{row.gop_per_s:.0f}")
            if row.provider.startswith(LIMIT):
                table.add_row(row.provider, *figures, "", share, row.limit or "", "")
            else:
                ratio = f"{row.median_us / found[0].median_us:.2f}"
                table.add_row(row.provider, *figures, str(row.rows_per_s), share, row.limit or "", ratio)
        console.print(table)
    for refusal in report.refusals:
        console.print(f"[yellow]{refusal.provider}[/yellow] at {refusal.shape}, {refusal.rows} rows: {refusal.reason}")


def write(report: Report, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(report.to_json() + "\n")


def read(file: Path) -> Report:
    """A report that `write` wrote."""
    found = json.loads(file.read_text())
    rows, refusals = (Row(**row) for row in found["rows"]), (Refusal(**refusal) for refusal in found["refusals"])
    return Report(found["header"], tuple(rows), tuple(refusals))
