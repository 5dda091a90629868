"""Runs a benchmark from its command line to its report: builds contenders, refuses those that err, times the rest."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness import gpu, limits
from benchmarks.harness.contender import Contender, Provider, wrong_reason
from benchmarks.harness.options import Defaults, Options, parse
from benchmarks.harness.peaks import peaks
from benchmarks.harness.picture import draw
from benchmarks.harness.report import Case, Refusal, Report, Row, best_rates, header, make_row, write
from benchmarks.harness.roofline import draw_roofline
from benchmarks.harness.table import print_report
from benchmarks.harness.timing import Times, measure
from benchmarks.harness.work import Work


class Run:
    """One benchmark's rows and refusals as they come in."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.rows: list[Row] = []
        self.refusals: list[Refusal] = []
        self.on_gpu = torch.device(options.device).type == "cuda"
        size = gpu.last_level_cache_bytes(options.device) if self.on_gpu else limits.last_level_cache_bytes()
        self.cache_bytes = size
        self.cold_bytes, self.cut_short = limits.cold_bytes(len(options.providers) + 1, size)
        self._cold_readers: list[Contender] = []

    def cases(self) -> Iterator[tuple[Work, str]]:
        """Yield work and cache state."""
        for shape in self.options.shapes:
            for rows in self.options.rows:
                for cache in self.options.cache:
                    if cache == "hot" or rows <= self.options.cold_rows:
                        yield Work(shape, rows, self.options.device), cache

    def run_op(self, op: str, providers: Sequence[Provider]) -> None:
        """Run all cases of an op."""
        cases = list(self.cases())
        task = self.progress.add_task(op, total=len(cases) * len(self.options.threads))
        for work, cache in cases:
            self.progress.update(task, description=f"{op} {work.shape}, {work.rows} rows, {cache}")
            self.run_case(op, work, cache, providers)
            self.progress.advance(task, len(self.options.threads))

    def run_case(self, op: str, work: Work, cache: str, providers: Sequence[Provider]) -> None:
        """Run one case at every number of threads. Its contenders, gigabytes of copies if cold, end with this call."""
        contenders = self.build(work, cache, providers)
        for threads in self.options.threads:
            if contenders:
                self.time(Case(op, str(work.shape), work.rows, threads, cache), contenders)

    def build(self, work: Work, cache: str, providers: Sequence[Provider]) -> list[Contender]:
        """Build the contenders that can do the work and do it right; refuse every other provider."""
        contenders = []
        for provider in providers:
            reason = provider.unsupported_reason(work)
            if reason is None:
                size = provider.num_bytes(work)
                copies = 1 if cache == "hot" else max(2, -(-self.cold_bytes // size))
                contender = replace(provider.build(work, copies), copies=copies)
                reason = wrong_reason(provider, contender, work)
            if reason is None:
                contenders.append(contender)
            else:
                self.refuse(Refusal(f"{work.shape}, {work.rows} rows", provider.name, reason))
        return contenders

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refusal, once."""
        if refusal not in self.refusals:
            self.refusals.append(refusal)

    def limits(self, first: Contender, case: Case) -> list[Contender]:
        """Return the limits that stand beside the contenders of a case; none on devices where none is known."""
        if self.on_gpu:
            return gpu.limits(self.options.device)
        if self.options.device != "cpu":
            return []
        return [*(peaks(case.threads) if first.num_ops else []), *self.readers(first.num_bytes, case.cache)]

    def readers(self, num_bytes: int, cache: str) -> list[Contender]:
        """Return readers of `num_bytes`, again and again, or of all the cold bytes in turn."""
        if cache == "hot":
            return limits.readers(num_bytes, num_bytes)
        if not self._cold_readers:
            self._cold_readers = limits.readers(2 * limits.CALL_BYTES, self.cold_bytes)
        return self._cold_readers

    def time(self, case: Case, contenders: Sequence[Contender]) -> None:
        """Add the rows of one case."""
        everyone = [*contenders, *self.limits(contenders[0], case)]
        times = self.measure(everyone, case.threads)
        rates = best_rates(everyone, times)
        self.rows += [make_row(case, contender, times[contender.name], rates) for contender in everyone]

    def measure(self, contenders: Sequence[Contender], threads: int) -> dict[str, Times]:
        """Return times by name: of single calls on the CPU, of whole graphs on a GPU."""
        if self.on_gpu:
            return gpu.measure(contenders, self.options.seconds)
        synchronize = (lambda: None) if self.options.device == "cpu" else torch.accelerator.synchronize
        return measure(contenders, self.options.seconds, threads, synchronize)

    def report(self) -> Report:
        facts = {
            "command": shlex.join(sys.argv),
            "device": self.options.device,
            "cold_bytes": self.cold_bytes,
            "last_level_cache_bytes": self.cache_bytes,
            "cold_bytes_cut_short_by_memory": self.cut_short,
        }
        facts |= gpu.facts(self.options.device) if self.on_gpu else {}
        return Report(header(**facts), tuple(self.rows), tuple(self.refusals))


def main(
    description: str | None,
    providers: Mapping[str, Sequence[Provider]],
    defaults: Mapping[str, Defaults],
    arguments: Sequence[str] | None = None,
) -> Report:
    """Run a benchmark: parse the arguments, show progress, print the table, write the files that were asked for.

    An interrupt (Ctrl-C) ends the measuring alone.

    Args:
        description: for --help.
        providers: those of each op.
        defaults: by the type of the device.
        arguments: as in sys.argv[1:], which None means.
    """
    known = list(dict.fromkeys(provider.name for group in providers.values() for provider in group))
    options = parse(description, known, defaults, arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress, torch.inference_mode():
        run = Run(options, progress)
        try:
            for op, group in providers.items():
                by_name = {provider.name: provider for provider in group}
                run.run_op(op, [by_name[name] for name in options.providers if name in by_name])
        except KeyboardInterrupt:
            progress.console.print("interrupted: what follows is what there was so far")
    report = run.report()
    print_report(report)
    if options.json:
        write(report, options.json)
    if options.picture:
        draw(report, options.picture)
    if options.roofline:
        draw_roofline(report, options.roofline)
    return report
