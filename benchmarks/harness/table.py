"""Tables of a report for people: one per case, with the ratio of each contender to the first."""

import sys
from itertools import groupby

from rich.console import Console
from rich.table import Table

from benchmarks.harness.report import LIMIT, Refusal, Report, Row

FILE_WIDTH = 120  # characters of a table that goes to a file
COLUMNS = ("provider", "median us", "min us", "GB/s", "GOP/s", "rows/s", "of limit", "limit", "than first")
LEFT = ("provider", "limit")


def compared(microseconds: float, other: float) -> str:
    """Say how a time compares with another one.

    >>> compared(20.0, 10.0), compared(10.0, 12.0), compared(5.0, 5.0)
    ('2.00x slower', '1.20x faster', 'same')
    """
    ratio = f"{max(microseconds / other, other / microseconds):.2f}x"
    return "same" if ratio == "1.00x" else f"{ratio} slower" if microseconds > other else f"{ratio} faster"


def print_report(report: Report[Row]) -> None:
    """Print a table per case and the refusals."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for case, group in groupby(report.rows, key=lambda row: row.case):
        rows = list(group)
        table = Table(title=str(case), title_justify="left")
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
        for row in rows:
            table.add_row(*cells(row, rows[0]))
        console.print(table)
    for refusal in report.refusals:
        console.print(refused(refusal))


def refused(refusal: Refusal) -> str:
    """Return a line of a refusal."""
    return f"[yellow]{refusal.provider}[/yellow] at {refusal.case}: {refusal.reason}"


def cells(row: Row, first: Row) -> tuple[str, ...]:
    """Return the cells of a row; limits have no rows per second and are compared with nothing."""
    share = "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}"
    figures = (f"{row.median_us:.1f}", f"{row.min_us:.1f}", f"{row.gb_per_s:.1f}", f"{row.gop_per_s:.0f}")
    is_limit = row.provider.startswith(LIMIT)
    rows_per_s = "" if is_limit else str(row.rows_per_s)
    ratio = "" if is_limit or row is first else compared(row.median_us, first.median_us)
    return (row.provider, *figures, rows_per_s, share, row.limit or "", ratio)
