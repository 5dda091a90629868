"""The figures of a load for people."""

import sys

from rich.console import Console
from rich.table import Table

from benchmarks.harness.table import FILE_WIDTH
from benchmarks.suites.load.figures import LoadRow

TIMES = {
    "time to first token": "ttft_ms",
    "time per token behind it": "tpot_ms",
    "between pieces": "itl_ms",
    "to the end": "e2el_ms",
}


def print_row(row: LoadRow) -> None:
    """Print the rates, the times and the errors of a load."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    table = Table(title=title_of(row), title_justify="left")
    for name in ("ms", "mean", "P50", "P95", "P99"):
        table.add_column(name, justify="left" if name == "ms" else "right")
    for name, field in TIMES.items():
        spread = getattr(row, field)
        table.add_row(name, *(f"{value:.2f}" for value in (spread.mean, spread.p50, spread.p95, spread.p99)))
    console.print(table)
    console.print(
        f"{row.completed} of {row.requests} requests in {row.seconds:.2f} s: {row.requests_per_s:.2f} requests/s, "
        f"{row.tokens_per_s:.1f} new tokens/s, {row.total_tokens_per_s:.1f} tokens/s in all",
        highlight=False,
    )
    cached = f", {row.cached_tokens} of them cached" if row.cached_tokens else ""
    console.print(f"{row.prompt_tokens} tokens of prompts{cached}, {row.new_tokens} new ones", highlight=False)
    if row.goodput_per_s is not None:
        goals = ", ".join(f"{name} <= {limit:g} ms" for name, limit in row.goals_ms.items())
        console.print(f"goodput {row.goodput_per_s:.2f} requests/s ({goals})", highlight=False)
    errors = ", ".join(f"{count} {kind}" for kind, count in sorted(row.errors.items())) or "none"
    console.print(f"errors: {errors}", highlight=False)


def title_of(row: LoadRow) -> str:
    """Return a load in words."""
    rate = "all at once" if row.request_rate is None else f"{row.request_rate:g} requests/s"
    return rate if row.concurrency is None else f"{rate}, {row.concurrency} at a time"
