"""Load on a server of OpenAI's interface: requests by a Poisson process, or by clients in a closed loop.

python benchmarks/load_server.py --request-rate 1 2 4 --num-prompts 50 --picture curves.png
python benchmarks/load_server.py --max-concurrency 16 --input-len lognormal:128:0.5:512 --output-len 64 --ignore-eos
python benchmarks/load_server.py --request-rate 4 --goodput ttft:500 tpot:50 --json figures.json

Prompts are random token ids, sent to /v1/completions as a stream. A key is read from OPENAI_API_KEY. The time to the
first token begins when a request is due: by its time of arrival, or, in a closed loop, when its client is free.
"""

import asyncio
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.harness.report import Report, header, write
from benchmarks.suites.load.client import Endpoint, Outcome
from benchmarks.suites.load.drive import drive, open_client
from benchmarks.suites.load.figures import LoadRow, make_row, times_of
from benchmarks.suites.load.options import Options, parse
from benchmarks.suites.load.picture import draw
from benchmarks.suites.load.plan import plan
from benchmarks.suites.load.table import print_row

KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class LoadReport(Report[LoadRow]):
    """The figures of all loads, and of the last one each request's.

    Attributes:
        requests: tokens and times of each, in order.
    """

    requests: tuple[dict[str, object], ...] = ()


def run(arguments: Sequence[str] | None = None) -> LoadReport:
    """Put every load of a command line on the server, one after the other; print and write the figures."""
    options = parse(__doc__, arguments)
    try:
        rows, outcomes = asyncio.run(measure(options))
    except httpx.HTTPError as error:
        raise SystemExit(f"{options.base_url}: {error or type(error).__name__}") from None
    facts = {"command": shlex.join(sys.argv), "server": options.base_url, "seed": options.seed}
    facts |= {"input_len": options.prompts.input_len.words, "output_len": options.prompts.output_len.words}
    report = LoadReport(header(**facts), tuple(rows), (), tuple(map(fields_of, outcomes)))
    if options.json:
        write(report, options.json)
    if options.picture:
        draw(rows, outcomes, options.base_url, options.picture)
    return report


async def measure(options: Options) -> tuple[list[LoadRow], list[Outcome]]:
    """Put every load on the server; return the figures of all, and the outcomes of the last one."""
    rows: list[LoadRow] = []
    outcomes: list[Outcome] = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    async with open_client(options.base_url, os.environ.get(KEY), options.timeout_s) as http:
        endpoint = await find_endpoint(http, options)
        with progress:
            for load, (rate, concurrency) in enumerate(options.loads):
                requests = plan(options.prompts, options.num_prompts, rate, options.burstiness, options.seed, load)
                warm = plan(options.prompts, options.num_warmups, math.inf, 1.0, options.seed + 1, load)
                if warm:
                    await drive(http, endpoint, warm, None, lambda _: None)
                words = f"{rate:g} requests/s" if math.isfinite(rate) else f"{concurrency or 'all'} at a time"
                task = progress.add_task(words, total=len(requests))
                outcomes, seconds = await drive(
                    http, endpoint, requests, concurrency, lambda _, task=task: progress.advance(task)
                )
                known = rate if math.isfinite(rate) else None
                rows.append(make_row(outcomes, seconds, known, concurrency, options.goals_ms))
                progress.remove_task(task)
                print_row(rows[-1])
    return rows, outcomes


async def find_endpoint(http: httpx.AsyncClient, options: Options) -> Endpoint:
    """Return what is asked; where no model was named, it is the first one that the server lists."""
    model = options.model
    if model is None:
        listed = await http.get("/v1/models")
        listed.raise_for_status()
        model = listed.json()["data"][0]["id"]
    extra = {"ignore_eos": True} if options.ignore_eos else {}
    return Endpoint(options.endpoint, model, options.temperature, options.prompts.banned, extra)


def fields_of(outcome: Outcome) -> dict[str, object]:
    """Return tokens and times of a request as JSON has them."""
    counts = {name: getattr(outcome, name) for name in ("prompt_tokens", "new_tokens", "cached_tokens", "error")}
    return counts | {"due_s": outcome.due_s, "asked_tokens": outcome.planned.max_tokens} | times_of(outcome)
