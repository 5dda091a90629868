"""Tables of whole models for people: one per case, with the ratio of each contender to the first."""

import sys
from itertools import groupby

from rich.console import Console
from rich.table import Table

from benchmarks.harness.models.report import BOUND, ModelReport, Peak, Row, StartRow
from benchmarks.harness.table import FILE_WIDTH, compared, refused

COLUMNS = ("contender", "tok/s", "median", "ms", "of its bound", "limit", "outside", "than first")
LEFT = ("contender", "limit")


def print_report(report: ModelReport) -> None:
    """Print the machine and the versions, a table per case, the peaks of memory, the starts, and the refusals."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    versions = (f"{package} {version}" for package, version in report.header["versions"].items())
    words = f"{report.header.get('gpu', report.header['cpu'])}; {report.header['model']}; {', '.join(versions)}"
    console.print(words, soft_wrap=True)
    for case, group in groupby(report.rows, key=lambda row: row.case):
        rows = list(group)
        console.print(titled(str(case), COLUMNS, [cells(row, rows[0]) for row in rows]))
    if report.peaks:
        columns = ("contender", "head", "tokens", "peak GB", "held GB", "peak / held")
        console.print(titled("memory", columns, list(map(peak_cells, report.peaks))))
    if report.starts:
        columns = ("head", "imports s", "load s", "first token s", "second token s", "load to second token s")
        console.print(titled("start", columns, list(map(start_cells, report.starts))))
    for refusal in report.refusals:
        console.print(refused(refusal))


def titled(title: str, columns: tuple[str, ...], lines: list[tuple[str, ...]]) -> Table:
    """Return a table."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def cells(row: Row, first: Row) -> tuple[str, ...]:
    """Return the cells of a row; the bound is compared with nothing."""
    ratio = "" if row is first or row.contender == BOUND else compared(row.ms, first.ms)
    shares = ["" if share is None else f"{share:.0%}" for share in (row.share_of_bound, row.outside_share)]
    figures = (f"{row.tokens_per_s:.1f}", f"{row.median_tokens_per_s:.1f}", f"{row.ms:.2f}")
    return (row.contender, *figures, shares[0], row.limit or "", shares[1], ratio)


def peak_cells(peak: Peak) -> tuple[str, ...]:
    """Return the cells of a peak of memory."""
    sizes = (f"{peak.peak_bytes / 1e9:.3f}", f"{peak.resident_bytes / 1e9:.3f}")
    return (peak.contender, peak.head, str(peak.context), *sizes, f"{peak.peak_bytes / peak.resident_bytes:.2f}")


def start_cells(start: StartRow) -> tuple[str, ...]:
    """Return the cells of a start."""
    after = start.load, start.first_token, start.second_token
    seconds = (start.imports, *after, sum(after))
    return (start.head, *(f"{each:.2f}" for each in seconds))
