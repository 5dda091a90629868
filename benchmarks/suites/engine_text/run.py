"""Texts through the engine: what it costs, and how it shares.

bare    tokens per second of a full batch through the engine, over those of `Decoder.generate`, texts compared
stall   a long prompt arrives while streams run: their longest pause until its first token, over their usual step
prefix  the time to the first token of a prompt whose beginning is cached, over that of one whose beginning is not

Weights are random. Measurements take turns, a first one does not count, and the best one does.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness import gpu
from benchmarks.harness.models.table import titled
from benchmarks.harness.report import Report, header, write
from benchmarks.harness.table import FILE_WIDTH
from benchmarks.providers.models.ours import build_decoder
from benchmarks.suites.engine_text.bare import compare
from benchmarks.suites.engine_text.figure import Figure
from benchmarks.suites.engine_text.options import Options, parse
from benchmarks.suites.engine_text.picture import draw
from benchmarks.suites.engine_text.prefix import prefix
from benchmarks.suites.engine_text.stall import stall


def figures_of(options: Options, say: Callable[[str], object]) -> Iterator[Figure]:
    """Build the decoder, and yield each figure that was asked for."""
    torch.set_num_threads(options.threads)
    say("builds the decoder")
    decoder = build_decoder(options.shape, options.device, options.head)
    if "bare" in options.parts:
        for batch in options.batches:
            yield compare(decoder, options, batch, say)
    if "stall" in options.parts:
        yield stall(decoder, options, say)
    if "prefix" in options.parts:
        yield prefix(decoder, options, say)


def print_figures(figures: Sequence[Figure], title: str) -> None:
    """Print each figure, its limit, and what it is made of."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    lines = [
        (
            figure.name,
            f"{figure.value:.3f}",
            f"{'>=' if figure.more_is_better else '<='} {figure.limit:g}",
            "yes" if figure.is_met else "no",
        )
        for figure in figures
    ]
    console.print(titled(title, ("figure", "value", "limit", "met"), lines))
    for figure in figures:
        details = ", ".join(f"{name} {value:.5g}" for name, value in figure.details.items())
        console.print(f"{figure.name}: {details}", highlight=False, soft_wrap=True)


def run(arguments: Sequence[str] | None = None) -> Report[Figure]:
    """Measure, print and write; an interrupt ends the measuring alone, and an error is raised behind the figures."""
    options = parse(__doc__, arguments)
    figures: list[Figure] = []
    facts = {"command": shlex.join(sys.argv), "model": options.shape.title, "device": options.device}
    facts |= {"head": options.head, "threads": options.threads}
    facts |= gpu.facts(options.device) if torch.device(options.device).type == "cuda" else {}
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=None)
            for figure in figures_of(options, lambda words: progress.update(task, description=words)):
                figures.append(figure)
    except KeyboardInterrupt:
        print("interrupted: what follows is what there was so far", file=sys.stderr)
    finally:
        report = Report(header(**facts), tuple(figures), ())
        print_figures(figures, f"{options.shape.title}, head {options.head}, {options.threads} threads")
        if options.json:
            write(report, options.json)
        if options.picture and figures:
            draw(figures, report.header, options.picture)
    return report
