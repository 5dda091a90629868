"""`bitnet-jit report`: one file that tells what this machine has, whether kernels are right on it, and how fast.

It is for those who run this package on hardware that its makers do not have, such as a Mac: they send the file.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bitnet_jit.kernels.kernel import Kernel
    from bitnet_jit.problem import Problem

FILE = Path("bitnet-jit-report.md")
FEW = 4  # problems of each kernel
SHAPES = ((2560, 2560), (6912, 2560), (2560, 6912))
ROWS = (1, 16, 128)
TOKENS = 64
MLX = "mlx"
DeviceNames = Annotated[
    list[str] | None, typer.Option("--device", help="cpu, cuda, mps or mlx; may be given again. [default: all]")
]


def report(
    output: Annotated[Path, typer.Option(help="The file that is written, in Markdown.")] = FILE,
    device: DeviceNames = None,
    every: Annotated[bool, typer.Option("--every", help="All problems of each kernel, for minutes.")] = False,
) -> None:
    """Write what is here, whether every kernel answers right, and how fast layers and a small model run."""
    from bitnet_jit.system.files import write_output
    from bitnet_jit.system.writing import writing

    devices = check_devices(device)
    lines = ["# bitnet-jit report", "", *info_lines(), "## Kernels", ""]
    lines += [line for name in devices for line in kernel_lines(name, every)]
    lines += [
        "",
        "## Layers",
        "",
        "| device | outputs x inputs | rows | median us | weight GB/s |",
        "|---|---|---|---|---|",
    ]
    lines += [line for name in devices for line in layer_lines(name)]
    lines += ["", "## The embedded model", "", *(text_line(name) for name in devices if name != MLX)]
    with writing(output):
        write_output(output, ("\n".join(lines) + "\n").encode())
    typer.echo(f"wrote {output}")


def check_devices(names: Sequence[str] | None) -> list[str]:
    """Return the devices that are asked for, or all that are here; one that is not here ends the command."""
    from bitnet_jit.devices.kinds import available_types
    from bitnet_jit.kernels import registry

    here = [*available_types(), *([MLX] if registry.absent_reason(MLX) is None else [])]
    for name in names or ():
        if name not in here:
            raise typer.BadParameter(f"expected one of {', '.join(here)}, got {name!r}", param_hint="--device")
    return list(names or here)


def info_lines() -> list[str]:
    """Return what `bitnet-jit info` says, as Markdown."""
    from bitnet_jit.cli.info import sections

    return [
        "```",
        *(line for title, lines in sections() for line in (title, *(f"  {a:<24} {b}" for a, b in lines))),
        "```",
        "",
    ]


def kernel_lines(device: str, every: bool) -> Iterator[str]:
    """Yield a line per kernel of a device: on how many problems it agrees with the plain implementation."""
    from rich.console import Console
    from rich.progress import track

    from bitnet_jit.kernels import registry
    from bitnet_jit.tuning.conformance import kernels_with_problems

    kernels = [pair for pair in kernels_with_problems(device) if not registry.is_fallback(pair[0])]
    for kernel, problems in track(kernels, f"kernels on {device}", console=Console(stderr=True), transient=True):
        few = problems if every else problems[:: max(1, len(problems) // FEW)]
        wrong = [words for problem in few if (words := wrong_reason(kernel, problem, device))]
        told = "refuses all problems here" if not few else f"{len(few) - len(wrong)} of {len(few)} problems agree"
        yield f"- {device}: {kernel.name}: {told}{'; ' + wrong[0] if wrong else ''}"


def wrong_reason(kernel: "Kernel", problem: "Problem", device: str) -> str | None:
    """Return in a line what is wrong with a kernel's answer to a problem, or None."""
    import torch

    from bitnet_jit.tuning.conformance import check

    try:
        check(kernel, problem, torch.device("cpu" if device == MLX else device))
    except Exception as error:  # compilers and drivers have errors of their own, which the report is for
        return " ".join(f"{problem}: {type(error).__name__}: {error}".split())[:500]
    return None


def layer_lines(device: str) -> Iterator[str]:
    """Yield a line per shape and number of rows: how fast a packed layer runs."""
    from rich.console import Console
    from rich.progress import track

    from bitnet_jit.cli.bench import measure

    jobs = [(*shape, rows) for shape in SHAPES for rows in rows_of(device)]
    for job in track(jobs, f"layers on {device}", console=Console(stderr=True), transient=True):
        line = measure(*job, "i2", device)
        speed = f"{line.median_seconds * 1e6:.1f} | {line.gb_per_second:.1f}"
        yield f"| {device} | {line.out_features} x {line.in_features} | {line.rows} | {speed} |"


def rows_of(device: str) -> tuple[int, ...]:
    """Return the numbers of rows that are measured: one where MLX has a CPU alone, on which products take seconds."""
    if device != MLX:
        return ROWS
    from bitnet_jit.kernels.mlx.language import language

    return ROWS if language() else ROWS[:1]


def text_line(device: str) -> str:
    """Return how many tokens per second the embedded model writes on a device."""
    import time

    import bitnet_jit
    from bitnet_jit.cli.patience import Patience

    with Patience(f"writing a text on {device}"):
        decoder = bitnet_jit.load(bitnet_jit.embedded_model(), device=device)
        prompt = [list(b"In the beginning")]
        decoder.generate(prompt, max_new_tokens=TOKENS)
        start = time.perf_counter()
        decoder.generate(prompt, max_new_tokens=TOKENS)
    return f"- {device}: {TOKENS / (time.perf_counter() - start):.0f} tokens per second"
