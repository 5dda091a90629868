"""`bitnet-jit autotune`: find the fastest kernels for a model on this machine, once, for all later processes."""

from typing import Annotated

import typer

from bitnet_jit.cli.bench import parse_shape
from bitnet_jit.cli.generate import load_model
from bitnet_jit.errors import InvalidInput

ROWS = [2**exponent for exponent in range(12)]


def autotune(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A directory, or a hub id such as microsoft/bitnet-b1.58-2B-4T. [default: the embedded model]",
            show_default=False,
        ),
    ] = None,
    shapes: Annotated[
        list[str] | None, typer.Option("--shape", help="Outputs x inputs of a layer, instead of a model; repeatable.")
    ] = None,
    rows: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Rows of the input, batch size times tokens; may be given again. [default: 1, 2, 4, ..., 2048]"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0. [default: cpu]")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Most seconds to spend.")] = None,
    effort: Annotated[str, typer.Option(help="quick, or full for more care.")] = "quick",
) -> None:
    """Time all kernels and configs that can run MODEL here, and keep the fastest.

    Ctrl-C keeps what is done; the next call goes on from there.
    """
    if model is not None and shapes:
        raise InvalidInput("give a model or --shape, not both")
    sizes = [parse_shape(shape) for shape in shapes or ()]
    subject = sizes or load_model(model, device)
    import bitnet_jit

    place = (device or "cpu") if sizes else None
    typer.echo(bitnet_jit.autotune(subject, rows or ROWS, place, budget, effort))
