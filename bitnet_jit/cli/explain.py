"""`bitnet-jit explain`: the kernels that run a model on this machine, why, and how near they come to its limits."""

from typing import Annotated

import typer

from bitnet_jit.cli.loading import load_model
from bitnet_jit.cli.options import DeviceOption, I2SOption, ModelArgument
from bitnet_jit.cli.patience import Patience


def explain(
    model: ModelArgument = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the input, batch size times tokens.")] = 1,
    device: DeviceOption = None,
    i2_s: I2SOption = "x86",
) -> None:
    """Show the kernel that runs each kind of layer in MODEL: why, its time, share of the roofline, runner-up."""
    loaded = load_model(model, device, i2_s=i2_s)
    import bitnet_jit

    with Patience("measuring what this machine can do"):
        explanation = bitnet_jit.explain(loaded, rows)
    typer.echo(explanation)
