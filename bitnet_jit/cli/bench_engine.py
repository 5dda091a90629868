"""`bitnet-jit bench-engine`: the targets of the engine with the figures of this machine, and the grade."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_jit.cli.loading import load_model
from bitnet_jit.cli.options import DeviceOption, I2SOption, ModelArgument
from bitnet_jit.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bitnet_jit.engine.targets.report import EngineReport
    from bitnet_jit.engine.targets.run import TargetOptions

MARKS = {True: "[green]yes[/]", False: "[red]no[/]", None: "not told by this system"}
EMBEDDED = "tiny-bitnet"


def bench_engine(
    model: ModelArgument = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, max=10**7, help="Single calls that are timed. [default: 5000]", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: as many as torch uses]")] = None,
    device: DeviceOption = None,
    i2_s: I2SOption = "x86",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: to see that everything works.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw latencies, and throughput against concurrency, as .png or .svg (needs matplotlib)."),
    ] = None,
) -> None:
    """Measure what the engine promises: each target, its figure here, whether it is met, and the grade.

    MODEL writes the texts of which tokens per second are measured beside the targets.
    """
    if plot is not None:
        check_plot(plot)
    from rich.console import Console

    from bitnet_jit.devices.threads import set_num_threads
    from bitnet_jit.engine.targets.run import QUICK, TargetOptions

    if threads is not None:
        set_num_threads(threads)
    options = replace(QUICK if quick else TargetOptions(), device=device or "cpu")
    report = measure(replace(options, iterations=iterations or options.iterations), model, i2_s)
    show(report, Console())
    keep(report, json_file, plot)


def measure(options: "TargetOptions", model: str | None, i2_s: str) -> "EngineReport":
    """Measure all targets behind a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    from bitnet_jit.engine.targets.run import STAGES, measure_targets

    decoder = load_model(model, options.device, i2_s=i2_s)
    name = EMBEDDED if model is None else Path(model).name
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=STAGES)

        def begin(stage: str) -> None:
            progress.update(task, advance=1, description=stage)

        return measure_targets(options, decoder, name, begin)


def keep(report: "EngineReport", json_file: Path | None, plot: Path | None) -> None:
    """Write the files that were asked for."""
    from bitnet_jit.cli.bench_engine_picture import draw
    from bitnet_jit.system.files import write_beside_and_rename

    if json_file is not None:
        write_beside_and_rename(json_file, (json.dumps(report.fields(), indent=1) + "\n").encode())
    if plot is not None:
        draw(report, plot)


def check_plot(plot: Path) -> None:
    """Raise InvalidInput before anything is measured where no picture could be drawn."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidInput("plot: matplotlib missing; install by: pip install matplotlib")
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise InvalidInput(f"plot: expected a file that ends in .png, .svg or .pdf, got {str(plot)!r}")


def show(report: "EngineReport", console: "Console") -> None:
    """Print the targets, the percentiles, both curves and the grade."""
    console.print(targets_table(report))
    for target in report.targets:
        console.print(f"{target.name}: {target.how}", soft_wrap=True, highlight=False)
    shares = ", ".join(f"P{share:g} {value:.3f}" for share, value in report.percentiles().items())
    console.print(f"single calls, ms: {shares}")
    for name, points in (("rows/s by callers", report.rows), ("tokens/s by texts at a time", report.tokens)):
        console.print(f"{name}: " + ", ".join(f"{each.concurrency}: {each.per_second:,.0f}" for each in points))
    graded = report.graded
    console.print(
        f"grade {graded.grade()} ({graded.score:.0f} of 100), batches {graded.batch_speedup:.1f}x single calls"
    )


def targets_table(report: "EngineReport") -> "Table":
    """Return the targets as a table of rich."""
    from rich.table import Table

    table = Table(title=f"targets of the engine, {report.device}, {report.threads} CPU threads")
    for heading in ("", "target", "measured", "met"):
        table.add_column(heading)
    for target in report.targets:
        table.add_row(target.name, target.words, target.figure, MARKS[target.is_met])
    return table
