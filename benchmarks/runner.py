"""Runs a benchmark from its command line to its report: builds contenders, refuses those that err, times the rest."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from rich.console import Console
from rich.progress import Progress

import limits
from options import Options, parse
from picture import draw
from report import Refusal, Report, Row, best_rates, header, make_row, print_report, write
from timing import TURNS, measure
from work import Contender, Provider, Work, why_wrong


class Run:
    """One benchmark's rows and refusals as they come in."""

    def __init__(self, op: str, providers: Mapping[str, Provider], options: Options, progress: Progress) -> None:
        self.op, self.options, self.progress = op, options, progress
        self.providers = [providers[name] for name in options.providers]
        self.rows: list[Row] = []
        self.refusals: list[Refusal] = []
        self.cold_bytes, self.cut_short = limits.cold_bytes(len(self.providers) + 1)
        self._cold_readers: list[Contender] = []

    def cases(self) -> Iterator[tuple[Work, str]]:
        """Work and cache state."""
        for shape in self.options.shapes:
            for rows in self.options.rows:
                for cache in self.options.cache:
                    if cache == "hot" or rows <= self.options.cold_rows:
                        yield Work(shape, rows, self.options.device), cache

    def run_all(self) -> None:
        cases = list(self.cases())
        task = self.progress.add_task(self.op, total=len(cases) * len(self.options.threads) * TURNS)
        for work, cache in cases:
            contenders = self.build(work, cache)
            for threads in self.options.threads:
                self.progress.update(task, description=f"{self.op} {work.shape}, {work.rows} rows, {cache}")
                self.time(work, cache, contenders, threads)
                self.progress.advance(task, TURNS)

    def build(self, work: Work, cache: str) -> list[Contender]:
        """The contenders that can do the work and do it right; every other provider becomes a refusal."""
        contenders = []
        for provider in self.providers:
            reason = provider.why_not(work)
            if reason is None:
                size = provider.num_bytes(work.shape)
                contender = provider.build(work, 1 if cache == "hot" else max(2, -(-self.cold_bytes // size)))
                reason = why_wrong(provider, contender, work)
            if reason is None:
                contenders.append(contender)
            elif not any(
                (r.shape, r.rows, r.provider) == (str(work.shape), work.rows, provider.name) for r in self.refusals
            ):
                self.refusals.append(Refusal(str(work.shape), work.rows, provider.name, reason))
        return contenders

    def limits(self, work: Work, cache: str, threads: int) -> list[Contender]:
        """The limits that stand beside the contenders; none on devices other than the CPU."""
        if self.options.device != "cpu":
            return []
        return [limits.peak(threads), *self.readers(work, cache)]

    def readers(self, work: Work, cache: str) -> list[Contender]:
        """Reads of as many bytes as a packed weight has, again and again, or of all the cold bytes."""
        if cache == "hot":
            size = -(-work.shape.out_features * work.shape.in_features // 4)
            return limits.readers(size, size)
        if not self._cold_readers:
            self._cold_readers = limits.readers(2 * limits.CALL_BYTES, self.cold_bytes)
        return self._cold_readers

    def time(self, work: Work, cache: str, contenders: Sequence[Contender], threads: int) -> None:
        """Add the rows of one case at one number of threads."""
        everyone = [*contenders, *self.limits(work, cache, threads)]
        times = measure(everyone, self.options.seconds, threads, self.synchronize())
        rates = best_rates(everyone, times)
        for contender in everyone:
            found = times[contender.name]
            row = make_row(self.op, str(work.shape), work.rows, threads, cache, contender, found, rates)
            self.rows.append(row)

    def synchronize(self) -> Callable[[], object]:
        return (lambda: None) if self.options.device == "cpu" else torch.accelerator.synchronize

    def report(self) -> Report:
        facts = {
            "command": shlex.join(sys.argv),
            "device": self.options.device,
            "cold_bytes": self.cold_bytes,
            "last_level_cache_bytes": limits.last_level_cache_bytes(),
            "cold_bytes_cut_short_by_memory": self.cut_short,
        }
        return Report(header(**facts), tuple(self.rows), tuple(self.refusals))


def main(
    op: str,
    description: str,
    providers: Mapping[str, Provider],
    usual: Sequence[str],
    arguments: Sequence[str] | None = None,
) -> Report:
    """Run a benchmark: parse the arguments, show progress, print the table, write the files that were asked for."""
    options = parse(description, list(providers), usual, arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress, torch.inference_mode():
        run = Run(op, providers, options, progress)
        run.run_all()
    report = run.report()
    print_report(report, Console())
    if options.json:
        write(report, options.json)
    if options.picture:
        draw(report, options.picture)
    return report
