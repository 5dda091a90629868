"""Whole models: tokens per second of prefill and decode, time to the first token, and peak memory.

Weights are random, and the same for all contenders; --shape says whose sizes they have. Contenders take turns, a few
steps of one text each, and the limits of the machine take turns with them: `bound` is the time in which the first
contender's bytes could be read from memory and its int8 operations done, whichever takes longer.

bitnet_jit            our decoder: `stream` for one text, and the steps of `generate` for several; once for each
                      --packing (_t5: 1.6 bits) and --activation (_a8g: int8 by groups of inputs, _a16: floats)
llama_cpp             llama.cpp on the CPU, the same weights as TQ2_0, or Q2_0 where scales are of groups, and a head in
                      F16 or Q8_0: wall time around llama_decode (pip install "bitnet-jit[peers]")
transformers_patched  on a GPU: the model of transformers with our layers
transformers_dense    on a GPU: the same in dense bfloat16, compiled, with a static cache

prefill is `generate(max_new_tokens=1)`: its milliseconds are the time to the first token. `outside` is the share of a
decode step outside of kernels that read weights, head or cache, by torch's profiler.
"""

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import bitnet_jit
from benchmarks.harness import gpu
from benchmarks.harness.models.bounds import Demand, decode_demand, prefill_demand
from benchmarks.harness.models.picture import draw
from benchmarks.harness.models.profile import outside_share
from benchmarks.harness.models.report import BOUND, Case, ModelReport, Peak, Row, StartRow, make_row
from benchmarks.harness.models.start import measure_start
from benchmarks.harness.models.table import print_report
from benchmarks.harness.models.turns import Limits, Model, Seconds, Timed, seconds_of, take_turns
from benchmarks.harness.report import Refusal, header, write
from benchmarks.providers.models import ours
from benchmarks.suites.decode_contenders import CONTENDERS
from benchmarks.suites.decode_memory import draw_tokens, first_run, measure_alone
from benchmarks.suites.decode_options import PREFILL_TURNS, PROFILED_STEPS, Options, parse


class Run:
    """One benchmark's figures as they come in."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.config = options.shape.open_reader().config
        self.check_contexts()
        self.rows: list[Row] = []
        self.peaks: list[Peak] = []
        self.refusals: list[Refusal] = []
        self.starts: list[StartRow] = []

    def check_contexts(self) -> None:
        """Raise ValueError where the longest text does not fit the model's context."""
        options, room = self.options, self.config.context_length
        needed = max(*options.contexts, *options.prompts, options.memory_context) + options.most_steps + 1
        if needed > room:
            raise ValueError(f"texts of up to {needed} tokens do not fit the context of {options.shape.name}, {room}")

    def run_all(self) -> None:
        """Save the weights if asked, measure with every kind of head, and then the start if asked."""
        options = self.options
        if options.save:
            save(options, options.save)
        for head in options.heads:
            self.run_head(head)
        if options.start:
            with tempfile.TemporaryDirectory() as folder:
                self.start(options.save or save(options, Path(folder) / "model"))

    def run_head(self, head: str) -> None:
        """Build all contenders with a kind of head, measure every case, and give the memory back."""
        options = self.options
        models = list(self.build(head))
        task = self.progress.add_task("", total=len(options.decode_cases()) + len(options.prompts))
        try:
            for context, batch in options.decode_cases() if models else ():
                self.decode(head, models, context, batch)
                self.progress.advance(task)
            for tokens in options.prompts if models else ():
                self.prefill(head, models, tokens)
                self.progress.advance(task)
        finally:
            for model in models:
                model.close()

    def build(self, head: str) -> Iterator[Model]:
        """Yield the contenders that can take part, and note the memory that each takes; refuse the others in words."""
        options = self.options
        task = self.progress.add_task("", total=len(options.contenders))
        for name in options.contenders:
            self.progress.update(task, description=f"build {name}, head {head}")
            try:
                model, peak = self.build_one(name, head)
            except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
                self.refusals.append(Refusal(f"{options.shape.name}, head {head}", name, str(error)))
                continue
            finally:
                self.progress.advance(task)
            self.peaks += [peak] if peak is not None and options.memory else []
            yield model

    def build_one(self, name: str, head: str) -> tuple[Model, Peak | None]:
        """Build a contender and have it read a prompt; return it, and its peak of memory."""
        options, threads = self.options, max(self.options.threads)
        make, peak = CONTENDERS[name](options.shape, options.device, head), None
        if options.device == "cpu" and options.memory:
            peak = measure_alone(options.shape, head, name, options.memory_context, threads)
        tokens = options.memory_context if options.device != "cpu" else 1
        model, seen = first_run(make, options.shape, options.device, head, tokens, threads)
        return model, seen if options.device != "cpu" else peak

    def tokens(self, batch: int, count: int) -> torch.Tensor:
        """Draw token ids (batch, count)."""
        return draw_tokens(self.config.vocab_size, batch, count)

    def decode(self, head: str, models: Sequence[Model], context: int, batch: int) -> None:
        """Measure decode at one context and batch, with every number of threads in the same texts."""
        options, ids = self.options, self.tokens(batch, context)
        numbers, most = options.threads, options.most_steps
        writers = {}
        for model in models:
            self.say(f"decode, {context} tokens, batch {batch}: {model.name} reads")
            model.set_threads(max(numbers))
            writers[model.name] = model.begin(ids, most)
            writers[model.name](options.steps)  # compiles and captures
        behind = context + most / 2  # tokens, on average
        for threads in numbers:
            case = Case("decode", options.shape.name, head, threads, context, batch)
            timed = [Timed(m.name, partial(writers[m.name], options.steps), m.set_threads) for m in models]
            demands = [decode_demand(self.config, model.storage, behind, batch) for model in models]
            self.time(case, timed, demands, options.turns)
            self.profile(case, models, writers)

    def prefill(self, head: str, models: Sequence[Model], tokens: int) -> None:
        """Measure the reading of one prompt, to the first token."""
        options, ids = self.options, self.tokens(1, tokens)
        for model in models:
            self.say(f"prefill, {tokens} tokens: {model.name} for the first time")
            model.set_threads(max(options.threads))
            model.read(ids)
        for threads in options.threads:
            case = Case("prefill", options.shape.name, head, threads, tokens, 1)
            timed = [Timed(m.name, partial(seconds_of, partial(m.read, ids)), m.set_threads) for m in models]
            demands = [prefill_demand(self.config, model.storage, tokens) for model in models]
            self.time(case, timed, demands, min(options.turns, PREFILL_TURNS))

    def time(self, case: Case, timed: Sequence[Timed], demands: Sequence[Demand], turns: int) -> None:
        """Add the rows of a case: the contenders', then the bound."""
        everyone = [*timed, *self.limits.timed(case.threads)]
        times = take_turns(everyone, case.threads, turns, lambda name: self.say(f"{case}: {name}"))
        rates = self.limits.rates(case.threads, times)
        for contender, demand in zip(timed, demands, strict=True):
            self.rows.append(make_row(case, contender.name, times[contender.name], demand, rates))
        if rates.read:
            least = Seconds((demands[0].min_seconds(rates),))
            self.rows.append(make_row(case, BOUND, least, demands[0], rates))

    def profile(self, case: Case, models: Sequence[Model], writers: Mapping[str, Callable[[int], float]]) -> None:
        """Add the share outside of memory-bound kernels to the rows of a case, where the profiler sees kernels."""
        for model in models:
            if model.is_profiled:
                self.say(f"{case}: {model.name} is profiled")
                model.set_threads(case.threads)
                place = next(i for i, row in enumerate(self.rows) if (row.case, row.contender) == (case, model.name))
                step = self.rows[place].ms / 1e3
                share = outside_share(writers[model.name], PROFILED_STEPS, self.options.device, step)
                self.rows[place] = replace(self.rows[place], outside_share=share)

    @cached_property
    def limits(self) -> Limits:
        """Return the limits of the device."""
        return Limits(self.options.device)

    def start(self, folder: Path) -> None:
        """Measure the start of our decoder from the files of a folder, with each kind of head."""
        for head in self.options.heads:
            self.progress.add_task(f"start, head {head}")
            started = measure_start(folder, self.options.device, head)
            self.starts.append(StartRow(self.options.shape.name, head, **asdict(started)))

    def say(self, words: str) -> None:
        """Show what is being done."""
        self.progress.update(self.progress.task_ids[-1], description=words)

    def report(self) -> ModelReport:
        """Return what was measured so far."""
        options = self.options
        facts = {"command": shlex.join(sys.argv), "device": options.device, "model": options.shape.title}
        facts |= gpu.facts(options.device) if torch.device(options.device).type == "cuda" else {}
        figures = map(tuple, (self.rows, self.refusals, self.peaks, self.starts))
        return ModelReport(header(**facts), *figures)


def save(options: Options, folder: Path) -> Path:
    """Write the shape's weights as a checkpoint; return its folder."""
    bitnet_jit.save(ours.build_decoder(options.shape, "cpu", "checkpoint"), folder, "i2")
    return folder


def publish(report: ModelReport, options: Options) -> None:
    """Print a report, and write the files that the command line asks for."""
    print_report(report)
    if options.json:
        write(report, options.json)
    if options.picture:
        draw(report, options.picture)


def run(arguments: Sequence[str] | None = None) -> ModelReport:
    """Measure and publish; an interrupt ends the measuring alone, and an error is raised behind the figures so far."""
    options = parse(__doc__, arguments)
    progress = Progress(console=Console(stderr=True), transient=True)
    measured = Run(options, progress)
    try:
        with progress, torch.inference_mode():
            measured.run_all()
    except KeyboardInterrupt:
        print("interrupted: what follows is what there was so far", file=sys.stderr)
    finally:
        report = measured.report()
        publish(report, options)
    return report
