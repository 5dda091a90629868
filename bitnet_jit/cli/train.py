"""`bitnet-jit train`: a small decoder with ternary layers learns a text, byte by byte."""

import math
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_jit.cli.streams import tell

if TYPE_CHECKING:
    from bitnet_jit.training.checkpoint import History
    from bitnet_jit.training.network import TrainedDecoder
    from bitnet_jit.training.run import Progress
    from bitnet_jit.training.settings import TrainSettings

FORMATS = "Of the packed model: autobitlinear or bitlinear, which transformers reads; i2 or t5, ours, t5 the smallest."
SPINS = "100000"  # of a thread of OpenMP before it sleeps
CUDA_FIRST = "Such as cpu or cuda:0. [default: cuda if there is one, else cpu]"


Text = Annotated[Path, typer.Option(help="The file to learn from; its bytes are the tokens.", show_default=False)]
Out = Annotated[Path, typer.Option(help="The folder for the model and the checkpoint.", show_default=False)]
Validation = Annotated[
    Path | None, typer.Option(help="A file to be judged by. [default: the last 5 % of the text, held out]")
]
Layers = Annotated[int, typer.Option(help="Blocks.")]
HiddenSize = Annotated[int, typer.Option(help="Width of the residual stream.")]
IntermediateSize = Annotated[int, typer.Option(help="Width of the feed-forward middle.")]
Heads = Annotated[int, typer.Option(help="Query heads.")]
KVHeads = Annotated[int | None, typer.Option(help="Key and value heads. [default: a third of the heads, or all]")]
ContextLength = Annotated[int, typer.Option(help="Limit of the bytes that the model takes.")]
Window = Annotated[int, typer.Option(help="Bytes that are learned in a row.")]
Steps = Annotated[int, typer.Option(help="Updates of the weights.")]
BatchSize = Annotated[int, typer.Option(help="Windows per step.")]
LearningRate = Annotated[float, typer.Option(help="The highest; it rises, then sinks along a cosine.")]
FinalLearningRate = Annotated[float, typer.Option(help="The last one, as a share of the highest.")]
WarmupSteps = Annotated[int, typer.Option(help="Steps in which the learning rate rises.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's.")]
Dropout = Annotated[float, typer.Option(help="Share of the outputs of blocks that is left out in a step.")]
Clip = Annotated[float, typer.Option(help="The largest norm of the gradients.")]
Seed = Annotated[int, typer.Option(help="Of the first weights and the order of the data.")]
Dense = Annotated[bool, typer.Option("--dense", help="Plain linear layers, to compare with.")]
Compile = Annotated[bool | None, typer.Option("--compile/--eager", help="By torch.compile or not. [default: on a GPU]")]
Device = Annotated[str | None, typer.Option(help=CUDA_FIRST)]
Format = Annotated[str, typer.Option(help=FORMATS)]


def train(
    text: Text,
    out: Out,
    validation: Validation = None,
    layers: Layers = 6,
    hidden_size: HiddenSize = 384,
    intermediate_size: IntermediateSize = 1024,
    heads: Heads = 6,
    kv_heads: KVHeads = None,
    context_length: ContextLength = 1024,
    window: Window = 512,
    steps: Steps = 6000,
    batch_size: BatchSize = 32,
    learning_rate: LearningRate = 1e-3,
    final_learning_rate: FinalLearningRate = 0.05,
    warmup_steps: WarmupSteps = 100,
    weight_decay: WeightDecay = 0.5,
    dropout: Dropout = 0.2,
    clip: Clip = 1.0,
    seed: Seed = 0,
    dense: Dense = False,
    compile: Compile = None,
    device: Device = None,
    format: Format = "autobitlinear",
) -> None:
    """Train a decoder with ternary layers (BitNet b1.58) on TEXT, and write it to OUT for `generate --model OUT`.

    Ctrl-C, or a crash, loses at most a minute: the same command goes on from its checkpoint.
    """
    options = locals()
    share_cores()
    settings = make_settings(options)
    network, history = run(settings, text, validation, out, device, compile)
    leave_behind(network, history, out, None if dense else format)


def make_settings(options: dict[str, Any]) -> "TrainSettings":
    """Check the options of the command; return the settings among them, which have the names of their fields."""
    from bitnet_jit.checkpoints.formats.hf_export import check_format
    from bitnet_jit.training.settings import TrainSettings

    check_format(options["format"])
    return TrainSettings(**{field.name: options[field.name] for field in fields(TrainSettings)})


def share_cores() -> None:
    """Have OpenMP's threads wait for each other asleep, after a moment; torch's OpenMP reads this when it is loaded.

    Beside two other programs on two cores, a step took 2.6 s with threads that spun on, and 0.06 s with these.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def run(
    settings: "TrainSettings", text: Path, validation: Path | None, out: Path, device: str | None, compile: bool | None
) -> "tuple[TrainedDecoder, History]":
    """Train, with a bar that tells the progress."""
    import torch

    from bitnet_jit.devices.checks import check_device
    from bitnet_jit.training.run import train as run_training
    from bitnet_jit.training.text import read_text, split

    place = check_device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    learned = read_text(text, "text", settings.window)
    if validation is None:
        learned, judged = split(learned, settings.window)
    else:
        judged = read_text(validation, "validation", settings.window)
    compiled = place.type == "cuda" if compile is None else compile
    try:
        with Bar(settings.steps) as bar:
            return run_training(settings, learned, judged, out, place, compiled, bar.update)
    except KeyboardInterrupt:
        tell(f"stopped; {out} has a checkpoint, and the same command goes on from there")
        raise


class Bar:
    """A progress bar on stderr, with bits per byte, speed and the time left."""

    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, progress: "Progress") -> None:
        """Tell the progress."""
        held_out = "" if math.isnan(progress.validation) else f" ({progress.validation:.3f} held out)"
        skipped = f", {progress.skipped} steps skipped" if progress.skipped else ""
        words = f"{progress.bits_per_byte:.3f} bits/byte{held_out}, {progress.bytes_per_second:,.0f} tokens/s{skipped}"
        self._bar.update(self._task, completed=progress.step, description=words)


def leave_behind(network: "TrainedDecoder", history: "History", out: Path, format: str | None) -> None:
    """Write the model, unless its format is None, and its loss curve, and say where they are."""
    from bitnet_jit.checkpoints.saving import save
    from bitnet_jit.training.folder import alone
    from bitnet_jit.training.results import FIGURES, PICTURE, can_draw, draw_curve, write_figures

    with alone(out):
        write_figures(history, out)
        if can_draw():
            draw_curve(history, out)
            curve = f"{out / FIGURES} and {PICTURE}"
        else:
            curve = f"{out / FIGURES} (a picture needs matplotlib: pip install matplotlib)"
        if format is not None:
            save(network, out, format)  # before a word of it: stdout may be closed
    bits = history.validations[-1][1]
    typer.echo(f"{history.step} steps; {bits:.4f} bits per byte of the held-out text; loss curve in {curve}")
    if history.skipped:
        typer.echo(f"{history.skipped} steps had gradients that were not finite, and changed nothing")
    if format is None:
        typer.echo(f"the weights are in {out}; a dense model is not packed")
    else:
        typer.echo(f'packed model in {out}; try: bitnet-jit generate "In the " --model {out}')
