"""Mixed load on `bitnet-jit serve` on loopback, for minutes.

Clients ask for whole answers and streams, and some leave in the middle. The same request must always get the same text,
no request may fail, and memory, open files and threads of the server must not grow from the second third to the last
one. In the end no text may run or wait, and the server must end by SIGTERM with exit code 0 and without a traceback.
The exit code is 0 where all of that is so, else 1.
"""

import argparse
import asyncio
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness.models.table import titled
from benchmarks.harness.options import at_least_one, new_parser, positive
from benchmarks.harness.report import Report, header, write
from benchmarks.harness.table import FILE_WIDTH
from benchmarks.suites.load.drive import open_client
from benchmarks.suites.soak.clients import Tally, client
from benchmarks.suites.soak.process import Sample, Server, served

SAMPLES = 30  # in a run
GROWTH_MB, GROWTH_SHARE = 10.0, 0.02  # of memory, from the second third to the last: what a heap's order leaves
SETTLE_S = 5.0
ACTIVE = ("bitnet_jit_running_requests", "bitnet_jit_waiting_requests")


@dataclass(frozen=True)
class SoakReport(Report[Sample]):
    """What was seen: samples over time, answers by kind, errors, and what is wrong."""

    done: dict[str, int]
    errors: dict[str, int]
    changed: int
    problems: tuple[str, ...]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--minutes", type=positive, default=10.0, help="of load (default: 10)")
    add("--clients", type=at_least_one, default=12, metavar="N", help="at a time (default: 12)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("serve", nargs="*", metavar="OPTION", help="of bitnet-jit serve, behind --")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a soak, print and write what was seen; return 0 where nothing is wrong."""
    given = parse(arguments)
    with served(given.serve) as server:
        samples, tally, active = asyncio.run(soak(server, 60 * given.minutes, given.clients))
        code = server.stop()
    problems = [*wrong(samples, tally), *active, *ended(code, server.log)]
    facts = {"command": shlex.join(sys.argv), "minutes": given.minutes, "clients": given.clients}
    figures = (dict(tally.done), dict(tally.errors), tally.changed, tuple(problems))
    report = SoakReport(header(**facts), tuple(samples), (), *figures)
    print_report(report)
    if given.json:
        write(report, given.json)
    return 1 if problems else 0


async def soak(server: Server, seconds: float, clients: int) -> tuple[list[Sample], Tally, list[str]]:
    """Put load on a server; return samples, what has happened, and what still ran when all clients had gone."""
    tally, samples = Tally(), []
    begin = time.monotonic()
    progress = Progress(console=Console(stderr=True), transient=True)
    async with open_client(server.address, None, math.inf) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        asking = asyncio.gather(*(client(http, model, number, begin + seconds, tally) for number in range(clients)))
        with progress:
            task = progress.add_task("", total=seconds)
            while not asking.done():
                await asyncio.wait([asking], timeout=seconds / SAMPLES)
                now = time.monotonic() - begin
                samples.append(Sample(now, *server.held(), tally.done.total(), tally.errors.total()))
                words = f"{tally.done.total()} answers, {tally.errors.total()} errors, {samples[-1].rss_mb:.0f} MB"
                progress.update(task, completed=now, description=words)
        await asking
        return samples, tally, await still_active(http)


async def still_active(http: httpx.AsyncClient) -> list[str]:
    """Return what still runs some time after the last client has gone, as the server's metrics tell."""
    end = time.monotonic() + SETTLE_S
    while True:
        text = (await http.get("/metrics")).text
        active = [line for line in text.splitlines() if line.startswith(ACTIVE) and float(line.split()[-1])]
        if not active or time.monotonic() > end:
            return [f"still active: {line}" for line in active]
        await asyncio.sleep(0.1)


def wrong(samples: Sequence[Sample], tally: Tally) -> list[str]:
    """Return what is wrong with a load, in words."""
    problems = [f"{count} errors: {kind}" for kind, count in tally.errors.items()]
    if tally.changed:
        problems.append(f"{tally.changed} answers were another text than before")
    if not tally.done:
        problems.append("no request was answered")
    third = max(1, len(samples) // 3)
    first, last = samples[third : 2 * third] or samples, samples[-third:]  # the first third warms up
    for name, room in (("rss_mb", None), ("files", 0), ("threads", 0)):
        before, after = (median(getattr(sample, name) for sample in part) for part in (first, last))
        if after > before + (max(GROWTH_MB, GROWTH_SHARE * before) if room is None else room):
            problems.append(f"{name} grew from {before:g} to {after:g}")
    return problems


def ended(code: int, log: Sequence[str]) -> list[str]:
    """Return what is wrong with the end of a server, in words."""
    problems = [] if code == 0 else [f"exit code {code}"]
    return problems + (["a traceback in the log"] if any("Traceback" in line for line in log) else [])


def print_report(report: SoakReport) -> None:
    """Print the samples, the answers and what is wrong."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    lines = [tuple(f"{value:.5g}" for value in asdict(sample).values()) for sample in report.rows]
    console.print(titled("the server", ("s", "MB", "files", "threads", "answers", "errors"), lines))
    console.print(", ".join(f"{count} {kind}" for kind, count in report.done.items()), highlight=False)
    for problem in report.problems or ("nothing is wrong",):
        console.print(problem, highlight=False)
