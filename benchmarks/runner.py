"""Runs a benchmark from its command line to its report: builds contenders, refuses those that err, times the rest."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import Progress

import gpu
import limits
from options import Options, Usual, parse
from peaks import peaks
from picture import draw
from report import Refusal, Report, Row, best_rates, header, make_row, print_report, write
from roofline import draw_roofline
from timing import Times, measure
from work import Contender, Provider, Work, wrong_reason


class Run:
    """One benchmark's rows and refusals as they come in."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.rows: list[Row] = []
        self.refusals: list[Refusal] = []
        self.on_gpu = torch.device(options.device).type == "cuda"
        self.cache_bytes = gpu.second_cache_bytes(options.device) if self.on_gpu else limits.last_level_cache_bytes()
        self.cold_bytes, self.cut_short = limits.cold_bytes(len(options.providers) + 1, self.cache_bytes)
        self._cold_readers: list[Contender] = []

    def cases(self) -> Iterator[tuple[Work, str]]:
        """Work and cache state."""
        for shape in self.options.shapes:
            for rows in self.options.rows:
                for cache in self.options.cache:
                    if cache == "hot" or rows <= self.options.cold_rows:
                        yield Work(shape, rows, self.options.device), cache

    def run_op(self, op: str, providers: Sequence[Provider]) -> None:
        """All cases of an op."""
        cases = list(self.cases())
        task = self.progress.add_task(op, total=len(cases) * len(self.options.threads))
        for work, cache in cases:
            self.progress.update(task, description=f"{op} {work.shape}, {work.rows} rows, {cache}")
            self.run_case(op, work, cache, providers)
            self.progress.advance(task, len(self.options.threads))

    def run_case(self, op: str, work: Work, cache: str, providers: Sequence[Provider]) -> None:
        """One case at every number of threads. Its contenders, gigabytes of copies if cold, end with this function."""
        contenders = self.build(work, cache, providers)
        for threads in self.options.threads:
            if contenders:
                self.time(op, work, cache, contenders, threads)

    def build(self, work: Work, cache: str, providers: Sequence[Provider]) -> list[Contender]:
        """The contenders that can do the work and do it right; every other provider becomes a refusal."""
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
                self.refuse(Refusal(str(work.shape), work.rows, provider.name, reason))
        return contenders

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refusal, once."""
        if refusal not in self.refusals:
            self.refusals.append(refusal)

    def limits(self, first: Contender, cache: str, threads: int) -> list[Contender]:
        """The limits that stand beside the contenders, of which one is given; none on devices where none is known."""
        if self.on_gpu:
            return gpu.limits(self.options.device)
        if self.options.device != "cpu":
            return []
        return [*(peaks(threads) if first.num_ops else []), *self.readers(first.num_bytes, cache)]

    def readers(self, num_bytes: int, cache: str) -> list[Contender]:
        """Reads of `num_bytes`, again and again, or of all the cold bytes in turn."""
        if cache == "hot":
            return limits.readers(num_bytes, num_bytes)
        if not self._cold_readers:
            self._cold_readers = limits.readers(2 * limits.CALL_BYTES, self.cold_bytes)
        return self._cold_readers

    def time(self, op: str, work: Work, cache: str, contenders: Sequence[Contender], threads: int) -> None:
        """Add the rows of one case at one number of threads."""
        everyone = [*contenders, *self.limits(contenders[0], cache, threads)]
        times = self.measure(everyone, threads)
        rates = best_rates(everyone, times)
        for contender in everyone:
            case = (op, str(work.shape), work.rows, threads, cache)
            self.rows.append(make_row(*case, contender, times[contender.name], rates))

    def measure(self, contenders: Sequence[Contender], threads: int) -> dict[str, Times]:
        """Times by name: of single calls on the CPU, of whole graphs on a GPU."""
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
    description: str,
    providers: Mapping[str, Sequence[Provider]],
    usual: Mapping[str, Usual],
    arguments: Sequence[str] | None = None,
) -> Report:
    """Run a benchmark: parse the arguments, show progress, print the table, write the files that were asked for.

    An interrupt (Ctrl-C) ends the measuring alone.

    Args:
        description: for --help.
        providers: those of each op.
        usual: what runs by default, by the type of the device.
        arguments: as in sys.argv[1:], which None means.
    """
    known = list(dict.fromkeys(provider.name for found in providers.values() for provider in found))
    options = parse(description, known, usual, arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress, torch.inference_mode():
        run = Run(options, progress)
        try:
            for op, found in providers.items():
                by_name = {provider.name: provider for provider in found}
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
