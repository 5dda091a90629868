"""`bitnet-jit inspect`: what is in a model's files, and what would run it."""

from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_jit.cli.convert import SOURCE
from bitnet_jit.cli.options import I2SOption
from bitnet_jit.cli.patience import Patience

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.inspection import Inspection

BAR = 40  # characters of the longest bar of the histogram


def inspect(
    model: Annotated[str, typer.Argument(help=SOURCE, show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor of the files, too.")] = False,
    i2_s: I2SOption = "x86",
) -> None:
    """Show what is in the files of MODEL: format, architecture, layers, bits per weight, kernels, what is missing."""
    with Patience("reading") as patience:
        from bitnet_jit.checkpoints.inspection import inspect_checkpoint

        def update(done: int, total: int) -> None:
            patience.update(f"reading layer {done} of {total}")

        result = inspect_checkpoint(model, update, i2_s)
    show_summary(result)
    if result.layers:
        show_layers(result)
    typer.echo("bits per weight")
    for bits, share in result.bits.items():
        typer.echo(f"  {bits:6.2f}  {100 * share:5.1f} %  {'#' * max(1, round(BAR * share))}")
    for kind, kernel in result.kernels:
        typer.echo(f"kernel    {kernel}: {kind}")
    if tensors:
        for tensor in result.stored:
            typer.echo(f"{tensor.name:<48} {tensor.type:<8} {tensor.shape}")
    if result.problem:
        typer.echo(f"cannot be run: {result.problem}", err=True)
        raise typer.Exit(1)


def show_summary(result: "Inspection") -> None:
    """Print the format and the architecture."""
    size = sum(tensor.num_bytes for tensor in result.stored)
    typer.echo(f"files     {result.path}: {len(result.stored)} tensors, {size / 1e6:.1f} MB")
    if (config := result.config) is None:
        return
    typer.echo(f"format    {result.description}")
    parts = [
        config.activation,
        *(["sub-norms"] if config.sub_norms else []),
        *(["q/k norms"] if config.qk_norms else []),
    ]
    typer.echo(
        f"model     {config.num_layers} blocks, {config.hidden_size} wide, {config.intermediate_size} in the middle; "
        f"{config.num_heads} heads of {config.head_dim} on {config.num_kv_heads}; {', '.join(parts)}"
    )
    typer.echo(
        f"text      {config.vocab_size} tokens, {config.context_length} at a time; tokenizer: {result.tokenizer}; chat "
        f"template: {'yes' if result.has_template else 'none'}"
    )


def show_layers(result: "Inspection") -> None:
    """Print the ternary layers."""
    typer.echo(f"{'layer':<32} {'outputs x inputs':>18} {'density':>8}  {'scales':<21} per")
    for row in result.layers:
        low, high = row.scales
        scales = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        typer.echo(
            f"{row.name:<32} {f'{row.shape[0]} x {row.shape[1]}':>18} {row.density:>8.3f}  {scales:<21} {row.scale}"
            + (f", input rotated in blocks of {row.block}" if row.block else "")
        )
