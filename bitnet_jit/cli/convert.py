"""`bitnet-jit convert`: a model's files in another format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_jit.cli.options import I2SOption
from bitnet_jit.cli.patience import Patience

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.verifying import Verification

SOURCE = "A directory, a GGUF file, or a hub id such as microsoft/bitnet-b1.58-2B-4T."
TO = (
    "tq1_0, tq2_0, i2_s, q2_0, pq2_0 or ptq1_0: a GGUF file whose ternary layers have that type; autobitlinear or "
    "bitlinear: a folder that transformers reads; mlx: one that mlx-lm reads; i2 or t5: one of ours."
)


def convert(
    source: Annotated[str, typer.Argument(help=SOURCE, show_default=False)],
    target: Annotated[Path, typer.Argument(help="The GGUF file, or the directory.", show_default=False)],
    to: Annotated[str, typer.Option(help=TO, show_default=False)],
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Change what the format does not hold, such as finer scales; tell what.")
    ] = False,
    i2_s: I2SOption = "x86",
    verify: Annotated[
        bool, typer.Option("--verify", help="Read both again; compare codes, scales, and the logits of a text.")
    ] = False,
) -> None:
    """Write the model SOURCE as TARGET in another format; codes and scales stay what they are."""
    with Patience("converting") as patience:
        from bitnet_jit.checkpoints.converting import convert_checkpoint

        def update(done: int, total: int) -> None:
            patience.update(f"converting, {done} of {total}")

        result = convert_checkpoint(source, target, to, lossy, verify, update, i2_s)
    typer.echo(f"found    {result.source}")
    typer.echo(f"written  {target} ({result.num_bytes / 1e6:.1f} MB, {to})")
    if result.moved:
        name = max(result.moved, key=result.moved.__getitem__)
        typer.echo(
            f"rounded  the numbers of {len(result.moved)} tensors, by up to {result.moved[name]:.1e} of them ({name})"
        )
    if result.floats:
        typer.echo(f"changed  the activations of {len(result.floats)} layers from int8 to floats")
    if result.integers:
        typer.echo(f"changed  the activations of {len(result.integers)} layers from floats to int8")
    if result.verification is not None:
        tell_verification(result.verification)


def tell_verification(verification: "Verification") -> None:
    """Print how two models compare; end with exit code 1 where they are not the same weights."""
    typer.echo(
        f"compared {verification.codes} codes, {len(verification.different)} tensors differ; scales differ by up to "
        f"{verification.largest_scale:.1e} of them, logits by up to {verification.largest_difference:.1e} of their "
        "deviation"
    )
    if verification.different:
        typer.echo(f"differ   {', '.join(verification.different)}", err=True)
        raise typer.Exit(1)
