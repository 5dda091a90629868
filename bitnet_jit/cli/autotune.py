"""`bitnet-jit autotune`: find the fastest kernels for a model on this machine, once, for all later processes."""

from pathlib import Path
from typing import Annotated

import typer

from bitnet_jit.cli.bench import parse_shape
from bitnet_jit.cli.loading import load_model
from bitnet_jit.cli.options import DeviceOption, I2SOption, ModelArgument
from bitnet_jit.cli.streams import tell
from bitnet_jit.errors import InvalidInput


def autotune(
    model: ModelArgument = None,
    shapes: Annotated[
        list[str] | None, typer.Option("--shape", help="Outputs x inputs of a layer, instead of a model; repeatable.")
    ] = None,
    rows: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Rows of the input, batch size times tokens; may be given again. [default: 1, 2, 4, ..., 2048]"
        ),
    ] = None,
    device: DeviceOption = None,
    i2_s: I2SOption = "x86",
    budget: Annotated[float | None, typer.Option(min=0, help="Most seconds to spend.")] = None,
    effort: Annotated[str, typer.Option(help="quick, or full for more care.")] = "quick",
    export: Annotated[
        Path | None,
        typer.Option("--export", readable=False, help="Only write all choices so far to this file."),
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", help="Only take over such a file of a machine like this one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Import from an unlike machine too.")] = False,
) -> None:
    """Time all kernels and configs that can run MODEL here, and keep the fastest.

    Ctrl-C keeps what is done; the next call goes on from there.
    """
    if (model is not None) + bool(shapes) + (export is not None) + (import_ is not None) > 1:
        raise InvalidInput("give one of a model, --shape, --export and --import")
    if export is not None or import_ is not None:
        carry(export, import_, force)
    else:
        sizes = [parse_shape(shape) for shape in shapes or ()]
        tune(sizes, model, rows, device, i2_s, budget, effort)


def tune(
    sizes: list[tuple[int, int]],
    model: str | None,
    rows: list[int] | None,
    device: str | None,
    i2_s: str,
    budget: float | None,
    effort: str,
) -> None:
    """Tune layers of some sizes on a device, or a model where there are none, and print the report."""
    subject = sizes or load_model(model, device, i2_s=i2_s)
    import bitnet_jit
    from bitnet_jit.tuning.autotune import ROWS

    place = ("cpu" if device is None else device) if sizes else None
    try:
        typer.echo(bitnet_jit.autotune(subject, rows or ROWS, place, budget, effort))
    except KeyboardInterrupt:
        tell("stopped; what is tuned is kept, and the same command goes on from there")
        raise


def carry(export: Path | None, import_: Path | None, force: bool) -> None:
    """Write the choices of this machine to a file, or take over those of a file."""
    from bitnet_jit.ops.calls import DISPATCHER
    from bitnet_jit.runtime.transfer import export_tuned, import_tuned
    from bitnet_jit.system.files import is_stream

    cache = DISPATCHER.cache
    if export is not None:
        number = export_tuned(cache, export)  # where that is the standard output, words are no part of it
        typer.echo(f"{number} choices written to {export}", err=is_stream(export))
    elif import_ is not None:
        typer.echo(f"{import_tuned(cache, import_, force)} choices taken over into {cache.folder}")
