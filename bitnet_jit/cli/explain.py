"""`bitnet-jit explain`: which kernels run a model on this machine, why, and how near they come to what it can do."""

from typing import Annotated

import typer

from bitnet_jit.cli.generate import load_model
from bitnet_jit.cli.patience import Patience


def explain(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A directory, or a hub id such as microsoft/bitnet-b1.58-2B-4T. [default: the embedded model]",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the input, batch size times tokens.")] = 1,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0. [default: cpu]")] = None,
) -> None:
    """Show the kernel that runs each kind of layer in MODEL: why, its time, share of the roofline, runner-up."""
    loaded = load_model(model, device)
    import bitnet_jit

    with Patience("measuring what this machine can do"):
        found = bitnet_jit.explain(loaded, rows)
    typer.echo(found)
